"""The report's tables: paper, logs and ours; details; runs one by one; claims; fairness."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from utils.report.anchors import LEFT_OUT, block_key, curves_key, net_key, picture_anchor, settings_anchor
from utils.report.formatting import (
    Field,
    Record,
    Table,
    cell_of,
    difference_and_p,
    mean_variance,
    measured,
    net_of,
    number,
    with_settings,
)
from utils.report.published import (
    SOURCE,
    Printed,
    is_published,
    logged,
    logged_statistics,
    printed_best,
    published_settings,
)
from utils.report.statistics import LAST, NOT_FINITE, Statistics, at_best_validation
from utils.report.trials import Group, LeftOut, Trial
from utils.report.validation import AT_BEST, at_best, validation_numbers, with_note
from utils.report.verdicts import LEVEL, P_NOTE, Paired, compare, differing_settings, paired, welch
from utils.tables.cells import Cell

TABLE_NOTE = (
    f"Test accuracy in percent: mean (population variance) of the last {LAST} epochs of all trials, pooled. paper: as printed; "
    "logs: computed from the logs of the published runs. ours - logs: difference in percentage points; p: Welch's two-sided "
    f"t-test on the trials' means; verdict: above or below if p is less than {LEVEL:g}, else within: no difference is shown (not "
    "finite: an accuracy is NaN or infinite). In brackets: settings that differ from the published ones or between the rows of a "
    "cell."
)
DETAILS_NOTE = (
    "Test accuracy in percent. best: mean (variance), over the trials, of each trial's best epoch on the test set; final: mean "
    f"of the last epoch; sd: standard deviation over the trials' means of their last {LAST} epochs; s / epoch: median."
)
CLAIMS_NOTE = (
    "The runs compared differ in how the gradient passes the quantizer, and otherwise only in the settings that Fairness lists, "
    "such as the learning rate. A learned gradient that is larger or smaller than STE's also acts like another learning rate "
    f"(norm in layers.csv). Difference of the mean test accuracies of the last {LAST} epochs, in percentage points; p: "
    f"Welch's two-sided t-test on the trials' means; {P_NOTE}; not finite: an accuracy is NaN or infinite."
)
MOST_NAMED = 8  # methods without a baseline, in the note
FAIRNESS_NOTE = (
    "The settings in which the runs of a method and of the baseline that it is compared with differ, apart from those that "
    "define the method."
)


def paper_table(table: int, cells: Mapping[Cell, Printed], ours: Mapping[Cell, Sequence[Group]]) -> Table:
    """Paper, logs and ours, with a row per cell and group of ours; cells: the cells of the paper's table that are shown."""
    records = []
    for cell, value in cells.items():
        logs = logged_statistics(cell)
        for group in ours.get(cell, [None]):
            own = group.statistics if group else None
            comparison = compare(group.trials, logged().get(cell, ()))._asdict() if group else {"verdict": "not run"}
            settings = {"settings": group.label if group else ""}
            paper = {"paper_mean": value.mean, "paper_variance": value.variance}
            numbers = {**paper, **_numbers("logs", logs), **_numbers("ours", own), **comparison}
            records.append({**cell._asdict(), **settings, **numbers, **validation_numbers(own)})
    return Table(
        f"table{table}",
        f"Table {table} ({SOURCE})",
        records,
        {
            "net": net_of,
            "method": lambda r: _method_and_settings(r, block_key(cell_of(r))),
            "paper": lambda r: mean_variance(r["paper_mean"], r["paper_variance"]),
            "logs": lambda r: _mean_variance_n(r, "logs"),
            "ours": lambda r: Field(_mean_variance_n(r, "ours"), target=settings_anchor(cell_of(r))),
            "ours - logs": lambda r: difference_and_p(r, 3),
            "verdict": lambda r: Field(r["verdict"], verdict=r["verdict"]),
            f"ours {AT_BEST}": at_best,
        },
        with_note(TABLE_NOTE, records),
    )


def details(name: str, title: str, groups: Sequence[Group]) -> Table:
    """The statistics of our groups beyond the printed one."""
    records = [_details_record(group) for group in groups]
    return Table(
        name,
        title,
        records,
        {
            "net": net_of,
            "method": _method_and_settings,
            "epochs": lambda r: str(r["epochs"]),
            "n": lambda r: Field(str(r["n"]), target=settings_anchor(cell_of(r))),
            f"last {LAST} mean (variance)": lambda r: _measured_mean(r, "mean", "variance"),
            "best, paper": lambda r: mean_variance(*_of(r, "paper_best_mean", "paper_best_variance")),
            "best, logs": lambda r: mean_variance(*_of(r, "logs_best_mean", "logs_best_variance")),
            "best, ours": lambda r: _measured_mean(r, "best_mean", "best_variance"),
            AT_BEST: at_best,
            "final": lambda r: _measured(r, "final"),
            "sd": lambda r: number(r["deviation"]),
            "s / epoch": lambda r: number(r["seconds"], 1),
        },
        with_note(DETAILS_NOTE, records),
    )


def _details_record(group: Group) -> Record:
    found, published = group.statistics, is_published(group.trials[0])
    best: dict[str, Any] = {}
    if published:
        best["paper_best_mean"], best["paper_best_variance"] = printed_best().get(group.cell, (np.nan, np.nan))
        if logs := logged_statistics(group.cell):
            best |= {"logs_best_mean": logs.best_mean, "logs_best_variance": logs.best_variance}
    own = {name: value for name, value in asdict(found).items() if name not in ("best_val", "at_best_val")}
    about = {**group.cell._asdict(), "settings": group.label, "epochs": group.epochs, "published": published}
    return {**about, **best, **own, **validation_numbers(found)}


def runs_table(trials: Sequence[Trial], left_out: Sequence[LeftOut], groups: Sequence[Group]) -> Table:
    """A row per run that the paper's tables do not count; in brackets: its settings, as its group's label."""
    why = {id(left.trial): left.reason for left in left_out}
    labels = {id(left.trial): left.label for left in left_out}
    labels |= {id(trial): group.label for group in groups for trial in group.trials}
    repeated = {left.reason for left in left_out if left.repeated}
    in_tables = {id(trial) for group in groups for trial in group.trials if is_published(trial)}
    records = [
        _run_record(trial, labels.get(id(trial), ""), why.get(id(trial), "")) for trial in trials if id(trial) not in in_tables
    ]

    def curves_of(record: Record) -> str:
        counted = record["left_out"] in ("", *repeated)
        cell = cell_of(record)
        key = curves_key(cell, record["published"]) if counted else net_key(LEFT_OUT, cell)
        return picture_anchor(key) if record["epochs"] else ""

    return Table(
        "other_runs",
        "Other runs, and runs that are not averaged",
        records,
        {
            "net": net_of,
            "run": lambda r: _method_and_settings(r)._replace(target=curves_of(r)),
            "trial": lambda r: Field(str(r["trial"]), target=settings_anchor(cell_of(r))),
            "epochs": lambda r: str(r["epochs"]),
            "test accuracy": lambda r: _measured(r, "final"),
            "best": lambda r: _measured(r, "best"),
            AT_BEST: at_best,
            f"last {LAST} mean (variance)": lambda r: _measured_mean(r, "mean", "variance"),
            "s / epoch": lambda r: number(r["seconds"], 1),
            "state": lambda r: r["state"],
            "not averaged, because": lambda r: r["left_out"],
        },
    )


def _run_record(trial: Trial, label: str, why: str) -> Record:
    """A run's record. label: its settings in words; why: the reason for which it is in no mean, or ""."""
    acc, last = trial.test_acc, trial.test_acc[-LAST:]
    with np.errstate(invalid="ignore", over="ignore"):
        numbers = {"final": acc[-1], "best": acc.max(), "mean": last.mean(), "variance": last.var()} if trial.epochs else {}
    if trial.epochs and len(trial.val_acc):
        numbers["at_best_val"] = at_best_validation(trial)
    return {
        **trial.cell._asdict(),
        "settings": label,
        "trial": trial.number,
        "epochs": trial.epochs,
        "published": is_published(trial),
        "state": trial.state_in_words,
        "source": str(trial.source),
        **numbers,
        "seconds": float(np.median(trial.seconds)) if len(trial.seconds) else np.nan,
        "left_out": why,
    }


def claims_table(groups: Sequence[Group]) -> Table:
    """Each method against its comparable baselines: in our runs, and in the logs. The note names the methods without any."""
    records, compared = [], paired(groups, published_settings)
    for group, other in compared.pairs:
        record = {
            **group.cell._asdict(),
            "settings": group.label,
            "epochs": group.epochs,
            "published": is_published(group.trials[0]),
            "baseline": other.cell.backward,
            "baseline_settings": other.label,
            "n": len(group.trials),
            "baseline_n": len(other.trials),
        }
        record |= {f"ours_{name}": value for name, value in welch(group.trials, other.trials)._asdict().items()}
        if record["published"] and {group.cell, other.cell} <= logged().keys():
            found = welch(logged()[group.cell], logged()[other.cell])
            record |= {f"logs_{name}": value for name, value in found._asdict().items()}
        records.append(record)
    return Table(
        "claims",
        "Method minus baseline",
        records,
        {
            "net": net_of,
            "method": _method_and_settings,
            "baseline": lambda r: with_settings(r["baseline"], r["baseline_settings"]),
            "n": lambda r: f"{r['n']}, {r['baseline_n']}",
            "ours": lambda r: Field(_test(r, "ours"), verdict=r["ours_verdict"]),
            "logs": lambda r: Field(_test(r, "logs"), verdict=r.get("logs_verdict", "")),
        },
        " ".join(filter(None, [CLAIMS_NOTE if records else "", _without_baseline(compared)])),
    )


def _without_baseline(found: Paired) -> str:
    """The methods for which no baseline is comparable, in a sentence; "" if each has one."""
    alone = sorted(found.alone, key=lambda pair: not pair[1])
    named = [f"{group} ({'the closest differs in ' + ', '.join(why) if why else 'none was run'})" for group, why in alone]
    more = f"; and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    return f"Without a comparable baseline, and so without a difference: {'; '.join(named[:MOST_NAMED])}{more}." if named else ""


def fairness_table(groups: Sequence[Group]) -> Table:
    """A row per setting in which a method and a baseline that it is compared with differ; the note says if there is none."""
    pairs = paired(groups, published_settings).pairs
    names = ("method", "baseline", "setting", "its value", "the baseline's")
    records = [
        dict(zip(names, (str(group), str(other), *difference), strict=True))
        for group, other in pairs
        for difference in differing_settings(group, other)
    ]
    note = "" if not pairs else FAIRNESS_NOTE if records else f"{FAIRNESS_NOTE} There are none."
    return Table("fairness", "Fairness", records, {name: lambda r, name=name: r[name] for name in names}, note)


def _numbers(side: str, found: Statistics | None) -> dict[str, Any]:
    values = {name: getattr(found, name) for name in ("n", "mean", "variance", "deviation")} if found else {"n": 0}
    return {f"{side}_{name}": value for name, value in values.items()}


def _method_and_settings(record: Record, key: str = "") -> Field:
    """key: of the picture with the curves; "": by whether the record's runs stand beside printed numbers."""
    cell = cell_of(record)
    return Field(
        with_settings(cell.method, record["settings"]), target=picture_anchor(key or curves_key(cell, record["published"]))
    )


def _of(record: Record, *names: str) -> list[float]:
    """The record's values of these names, NaN for those that it lacks."""
    return [record.get(name, np.nan) for name in names]


def _mean_variance_n(record: Record, side: str) -> str:
    n = record[f"{side}_n"]
    return f"{_measured_mean(record, f'{side}_mean', f'{side}_variance')}, n = {n}" if n else ""


def _measured_mean(record: Record, mean: str, variance: str) -> str:
    """A mean and a variance that were measured; "" where there are none."""
    return measured(record[mean], mean_variance(record[mean], record[variance])) if mean in record else ""


def _measured(record: Record, name: str) -> str:
    """An accuracy that was measured; "" where there is none."""
    return measured(record[name], number(record[name], 2)) if name in record else ""


def _test(record: Record, side: str) -> str:
    if f"{side}_difference" not in record:
        return ""
    verdict = record[f"{side}_verdict"]
    return NOT_FINITE if verdict == NOT_FINITE else f"{difference_and_p(record, 3, f'{side}_')}: {verdict}"
