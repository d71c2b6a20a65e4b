"""The report: ours beside the published numbers, claims, fairness, runs and errata; as Markdown, and as files."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from utils.cells import Cell
from utils.errata import KINDS, errata_records, errata_table
from utils.miscellaneous import BadInput
from utils.published import EPOCHS, SOURCE, Printed, logged, logged_statistics, printed, printed_best
from utils.results import find_trials, write_csv
from utils.tabular import Record, Table, markdown_row, mean_variance, number, write_records
from utils.trials import FULL_PRECISION, LAST, Group, LeftOut, Statistics, Trial, group_trials
from utils.verdicts import STANDARD_ERRORS, compare, pairs, unlike, welch

FIGURE_3 = (
    "ResNet20",
    "CIFAR10",
    "dorefa",
)  # the net, data set and quantizer of the paper's Figure 3: a panel for SGD, one for Adam
TABLE_NOTE = (
    f"Test accuracy in percent, mean (population variance) of the last {LAST} epochs of all trials, pooled; paper: as printed; "
    f"logs: from the published runs' logs. ours - logs: +- {STANDARD_ERRORS} standard errors, sqrt(s_ours^2 / n_ours + "
    "s_logs^2 / n_logs), s the standard deviation over the trials' means; the verdict says whether ours lies within them."
)
DETAILS_NOTE = (
    "In percent. best: mean (variance) over trials of the best epoch on the test set; final: mean of the last epoch; sd: standard "
    f"deviation over the trials' means of the last {LAST} epochs; s / epoch: median."
)
CLAIMS_NOTE = (
    "Percentage points; p: Welch's two-sided test on the trials' means. higher, lower: p < 0.05; level: no difference shown."
)
FAIRNESS_NOTE = "Every setting in which a method's runs and its baseline's differ, apart from those that define the method."


@dataclass(frozen=True, eq=False)
class Report:
    """What the trials came to. groups: those that count together; left_out: the trials in no mean, with the reason."""

    trials: list[Trial]
    groups: list[Group]
    left_out: list[LeftOut]

    @cached_property
    def published(self) -> dict[Cell, list[Group]]:
        """Our groups of the published cells."""
        return {cell: found for cell in printed() if (found := [group for group in self.groups if group.cell == cell])}

    @cached_property
    def others(self) -> list[Group]:
        """Our groups of no published cell."""
        return [group for group in self.groups if group.cell not in printed()]

    def shown(self, table: int) -> dict[Cell, Printed]:
        """The cells of a paper's table for the nets of which we have runs."""
        nets = {cell.model for cell in self.published}
        return {cell: value for cell, value in printed().items() if value.table == table and cell.model in nets}

    @cached_property
    def tables(self) -> list[Table]:
        """Those that are not empty."""
        found = []
        for number_ in (1, 2):
            groups = [group for cell in self.shown(number_) for group in self.published.get(cell, ())]
            found += [paper_table(self, number_), details(f"table{number_}_details", f"Table {number_}, ours in detail", groups)]
        found += [runs_table(self)]
        if any(len(group.trials) > 1 for group in self.others):
            found.append(details("other_cells", "Other cells, over their trials", self.others))
        found += [claims_table(self.groups), fairness_table(self.groups)]
        return [table for table in found if table.records]

    def markdown(self) -> str:
        """The whole report."""
        parts = ["# Results", self._head(), *(table.markdown() for table in self.tables)]
        if pairs(self.groups) and "fairness" not in (table.name for table in self.tables):
            parts.append(f"## Fairness\n\n{FAIRNESS_NOTE} There are none.")
        if self.published:
            parts.append(errata_markdown())
        return "\n\n".join(parts)

    def _head(self) -> str:
        counted = sum(len(group.trials) for group in self.groups)
        makers = Counter(trial.made_by or "no record of device and versions" for trial in self.trials)
        lines = [f"{counted} trials counted, {len(self.left_out)} left out. Made by:\n"]
        return "\n".join([*lines, *(f"- {count} runs: {maker}" for maker, count in makers.most_common())])

    def write(self, folder: Path) -> None:
        """report.md, each table as CSV and LaTeX, errata.csv, runs.csv.xz (every epoch of the counted trials) and the pictures.

        Raises BadInput where the folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "report.md").write_text(self.markdown() + "\n")
            for table in self.tables:
                table.write(folder)
            write_records(errata_records(), folder / "errata.csv")
            write_csv((trial for group in self.groups for trial in group.trials), folder / "runs.csv.xz")
            draw(self, folder)
        except OSError as error:
            raise BadInput(f"--out {folder}: {error}") from None


def make_report(roots: Sequence[str | Path]) -> tuple[Report, list[str]]:
    """The report of all runs below the roots, and a line per thing that could not be read.

    Raises BadInput, with the last of these lines, where there is no run at all.
    """
    trials, problems = find_trials(roots)
    if not trials:
        raise BadInput("; ".join(problems))
    groups, left_out = group_trials(trials, lambda cell: EPOCHS if cell in printed() else None)
    return Report(trials, groups, left_out), problems


def method(cell: Cell) -> str:
    """A run in few words: quantizer, optimizer, and what stood behind the quantizer; or the base model."""
    return FULL_PRECISION if cell.backward == FULL_PRECISION else f"{cell.quantizer} {cell.optimizer} {cell.backward}"


def paper_table(report: Report, table: int) -> Table:
    """Paper, logs and ours, a row per cell and group."""
    records = []
    for cell, value in report.shown(table).items():
        logs = logged_statistics(cell)
        for group in report.published.get(cell, [None]):
            ours = group.statistics if group else None
            comparison = compare(ours, logs)._asdict() if ours else {"verdict": "not run"}
            settings = {"settings": group.label if group else ""}
            paper = {"paper_mean": value.mean, "paper_variance": value.variance}
            records.append({**_cell(cell), **settings, **paper, **_numbers("logs", logs), **_numbers("ours", ours), **comparison})
    return Table(
        f"table{table}",
        f"Table {table} ({SOURCE})",
        records,
        {
            "net": lambda r: f"{r['model']} {r['dataset']}",
            "method": _method_and_settings,
            "paper": lambda r: mean_variance(r["paper_mean"], r["paper_variance"]),
            "logs": lambda r: _mean_variance_n(r, "logs"),
            "ours": lambda r: _mean_variance_n(r, "ours"),
            "ours - logs": _difference,
            "verdict": lambda r: r["verdict"],
        },
        TABLE_NOTE,
    )


def details(name: str, title: str, groups: Sequence[Group]) -> Table:
    """What our trials came to beyond the printed statistic."""
    records = []
    for group in groups:
        best, variance = printed_best().get(group.cell, (np.nan, np.nan))
        logs = logged_statistics(group.cell)
        logs_best = {"logs_best_mean": logs.best_mean, "logs_best_variance": logs.best_variance} if logs else {}
        paper = {"paper_best_mean": best, "paper_best_variance": variance}
        records.append({**_cell(group.cell), "settings": group.label, **paper, **logs_best, **asdict(group.statistics)})
    return Table(
        name,
        title,
        records,
        {
            "net": lambda r: f"{r['model']} {r['dataset']}",
            "method": _method_and_settings,
            "n": lambda r: str(r["n"]),
            f"last {LAST} mean (variance)": lambda r: mean_variance(r["mean"], r["variance"]),
            "best, paper": lambda r: mean_variance(r["paper_best_mean"], r["paper_best_variance"]),
            "best, logs": lambda r: mean_variance(r.get("logs_best_mean", np.nan), r.get("logs_best_variance", np.nan)),
            "best, ours": lambda r: mean_variance(r["best_mean"], r["best_variance"]),
            "final": lambda r: number(r["final"], 2),
            "sd": lambda r: number(r["deviation"]),
            "s / epoch": lambda r: number(r["seconds"], 1),
        },
        DETAILS_NOTE,
    )


def runs_table(report: Report) -> Table:
    """The runs of no published cell, and all that are in no mean, one by one."""
    why = {id(trial): reason for trial, reason in report.left_out}
    records = []
    for trial in report.trials:
        if trial.cell in printed() and id(trial) not in why:
            continue
        acc, last = trial.test_acc, trial.test_acc[-LAST:]
        numbers = {"final": acc[-1], "best": acc.max(), "mean": last.mean(), "variance": last.var()} if trial.epochs else {}
        seconds = float(np.median(trial.seconds)) if len(trial.seconds) else np.nan
        run = {"trial": trial.number, "epochs": trial.epochs, "state": trial.state, "source": str(trial.source)}
        records.append({**_cell(trial.cell), **run, **numbers, "seconds": seconds, "left_out": why.get(id(trial), "")})
    return Table(
        "runs",
        "Other runs, and runs left out",
        records,
        {
            "net": lambda r: f"{r['model']} {r['dataset']}",
            "run": lambda r: method(_cell_of(r)),
            "trial": lambda r: str(r["trial"]),
            "epochs": lambda r: str(r["epochs"]),
            "test accuracy": lambda r: number(r.get("final", np.nan), 2),
            "best": lambda r: number(r.get("best", np.nan), 2),
            f"last {LAST} mean (variance)": lambda r: mean_variance(r.get("mean", np.nan), r.get("variance", np.nan)),
            "s / epoch": lambda r: number(r["seconds"], 1),
            "state": lambda r: r["state"],
            "in no mean, because": lambda r: r["left_out"],
        },
    )


def claims_table(groups: Sequence[Group]) -> Table:
    """Each learned gradient against the STE of its net, quantizer and optimizer: ours, and the logs'."""
    records = []
    for group, ste in pairs(groups):
        record = {
            **_cell(group.cell),
            "settings": group.label,
            "ste_settings": ste.label,
            "n": len(group.trials),
            "ste_n": len(ste.trials),
        }
        record |= {f"ours_{name}": value for name, value in welch(group.trials, ste.trials)._asdict().items()}
        if group.cell in logged() and ste.cell in logged():
            record |= {f"logs_{name}": value for name, value in welch(logged()[group.cell], logged()[ste.cell])._asdict().items()}
        records.append(record)
    return Table(
        "claims",
        "Learned gradient minus STE",
        records,
        {
            "net": lambda r: f"{r['model']} {r['dataset']}",
            "method": _method_and_settings,
            "STE": lambda r: r["ste_settings"] or "the one",
            "n": lambda r: f"{r['n']}, {r['ste_n']}",
            "ours": lambda r: _test(r, "ours"),
            "logs": lambda r: _test(r, "logs"),
        },
        CLAIMS_NOTE,
    )


def fairness_table(groups: Sequence[Group]) -> Table:
    """A row per setting in which a method and its baseline differ."""
    names = ("method", "baseline", "setting", "its value", "the baseline's")
    records = [
        dict(zip(names, (str(group), str(ste), *difference), strict=True))
        for group, ste in pairs(groups)
        for difference in unlike(group, ste)
    ]
    return Table("fairness", "Fairness", records, {name: lambda r, name=name: r[name] for name in names}, FAIRNESS_NOTE)


def errata_markdown() -> str:
    """The disagreements between the printed tables and the logs, for reading."""
    kinds = "\n".join(f"- {kind}: {words}" for kind, words in KINDS.items())
    rows = [
        markdown_row(("kind", "where", "finding", "printed", "logs")),
        "|---|---|---|---|---|",
        *map(markdown_row, errata_table()),
    ]
    return "\n\n".join(["## Errata of the published tables", kinds, "\n".join(rows)])


def draw(report: Report, folder: Path) -> None:
    """Curves per net, quantizer and optimizer; Figure 3; an overview per table; curves.png: all runs of the table of runs."""
    from utils.plots import ACCURACY, LOSS, Row, draw_curves, draw_overview, series_of

    def block(*key: str) -> tuple[list[Group], list[Cell]]:
        """Our groups and the published cells of a net, data set, quantizer and optimizer."""
        cells = [cell for cell in printed() if (*cell[:3], cell.optimizer) == key]
        return [group for cell in cells for group in report.published.get(cell, ())], cells

    for key in dict.fromkeys((*cell[:3], cell.optimizer) for cell in report.published):
        series = series_of(*block(*key))
        draw_curves([(" ".join(key), series, LOSS), (" ".join(key), series, ACCURACY)], folder / f"curves_{'_'.join(key)}")
    if any(cell[:3] == FIGURE_3 for cell in report.published):
        panels = [(f"{' '.join(FIGURE_3)} {name}", series_of(*block(*FIGURE_3, name)), LOSS) for name in ("SGD", "Adam")]
        draw_curves(panels, folder / "figure3")
    for table in (1, 2):
        if report.shown(table):
            cells = {cell: value for cell, value in printed().items() if value.table == table}
            rows = [Row(cell, value, report.published.get(cell, ())) for cell, value in cells.items()]
            draw_overview(f"Table {table}", rows, folder / f"table{table}")
    alone = [Group(trial.cell, f"trial {trial.number}, left out", (trial,)) for trial, _ in report.left_out if trial.epochs]
    if series := series_of([*report.others, *alone], name=method):
        draw_curves([("", series, LOSS), ("", series, ACCURACY)], folder / "curves")


def _cell(cell: Cell) -> dict[str, Any]:
    return cell._asdict()


def _cell_of(record: Record) -> Cell:
    return Cell(*(record[name] for name in Cell._fields))


def _numbers(side: str, found: Statistics | None) -> dict[str, Any]:
    values = {name: getattr(found, name) for name in ("n", "mean", "variance", "deviation")} if found else {"n": 0}
    return {f"{side}_{name}": value for name, value in values.items()}


def _method_and_settings(record: Record) -> str:
    return method(_cell_of(record)) + (f" ({record['settings']})" if record["settings"] else "")


def _mean_variance_n(record: Record, side: str) -> str:
    n = record[f"{side}_n"]
    return f"{mean_variance(record[f'{side}_mean'], record[f'{side}_variance'])}, n = {n}" if n else ""


def _difference(record: Record) -> str:
    difference, error = (record.get(name, np.nan) for name in ("difference", "standard_error"))
    if difference != difference:
        return ""
    return f"{difference:+.3f}" + (f" +- {STANDARD_ERRORS * error:.3f}" if error == error else "")


def _test(record: Record, side: str) -> str:
    if f"{side}_difference" not in record:
        return ""
    p = record[f"{side}_p"]
    return f"{record[f'{side}_difference']:+.3f}" + (f", p = {p:.2g}" if p == p else "") + f": {record[f'{side}_verdict']}"
