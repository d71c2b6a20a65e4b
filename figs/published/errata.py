"""Where the printed tables and the logged trials disagree, computed from the per-epoch data."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

from utils.report.published import logged, logged_statistics, printed
from utils.report.trials import Statistics, Trial, statistics
from utils.tables.cells import Cell
from utils.tabular import mean_variance

DIGIT = 0.0005 + 1e-6  # half of the last printed digit
WARM_UP = 10  # epochs at the beginning whose steep curve says nothing about the schedule
KINDS = {
    "mean": "printed mean off by a whole number, with the logs' variance",
    "label": "swapped labels: the printed value is another row's in the logs",
    "trials": "the printed value is made of other trials than those that are logged",
    "schedule": "the learning rate drops at another epoch than in the other runs, seen from where the training accuracy breaks",
    "documented": "not in the per-epoch data; known from the settings and the folder names of the published runs",
}


@dataclass(frozen=True)
class Erratum:
    """A disagreement. cell: where; "all" stands for every value. Numbers in percent; NaN where there is none.

    logs_mean, logs_variance: the logged value that the printed one stands for. finding: in words.
    """

    kind: str
    cell: Cell
    finding: str
    printed_mean: float = np.nan
    printed_variance: float = np.nan
    logs_mean: float = np.nan
    logs_variance: float = np.nan

    def record(self) -> dict[str, Any]:
        """As a row of a table of data."""
        return {"kind": self.kind, **self.cell._asdict(), **{k: v for k, v in asdict(self).items() if k not in ("kind", "cell")}}


@dataclass(frozen=True)
class Origin:
    """What a printed value is: the statistic of the first `count` of the donor's logged trials, its mean shifted by `shift`."""

    donor: Cell
    count: int
    shift: int
    statistics: Statistics


def origin(cell: Cell) -> Origin | None:
    """Where a printed value comes from, if the logs tell: a match of mean and variance to the last digit.

    Tried in this order: the mean as it is, then off by a whole number; the cell's own trials, then those of the block's other
    methods; all of them, then the first n - 1, n - 2, ...
    """
    value = printed()[cell]
    block = [cell, *(other for other in logged() if other != cell and other._replace(backward=cell.backward) == cell)]
    for shifted in (False, True):
        for donor in block:
            trials = logged().get(donor, ())
            for count in range(len(trials), 0, -1):
                found = statistics(trials[:count])
                shift = round(value.mean - found.mean)
                fits = abs(value.mean - shift - found.mean) <= DIGIT and abs(value.variance - found.variance) <= DIGIT
                if fits and (shift != 0) == shifted:
                    return Origin(donor, count, shift, found)
    return None


def first_epoch_after_drop(trials: Sequence[Trial]) -> int:
    """The epoch, from 1, with which the training accuracy (mean over trials) breaks most: the first one at a lower learning rate.

    The break is where two curves a + b log(epoch), fitted before and from it on, leave the least squared error.
    """
    acc = np.mean([trial.train_acc for trial in trials], axis=0)[WARM_UP:]
    epochs = np.arange(len(acc)) + WARM_UP + 1.0

    def error(part: slice) -> float:
        design = np.stack([np.ones_like(epochs[part]), np.log(epochs[part])], axis=1)
        fit = design @ np.linalg.lstsq(design, acc[part], rcond=None)[0]
        return float(((acc[part] - fit) ** 2).sum())

    breaks = range(5, len(acc) - 4)  # at least 5 epochs on either side
    return int(epochs[min(breaks, key=lambda at: error(slice(at)) + error(slice(at, None)))])


@cache
def errata() -> tuple[Erratum, ...]:
    """All disagreements, by kind and in the tables' order."""
    found = [*_values(), *_schedules(), *_documented()]
    return tuple(sorted(found, key=lambda erratum: list(KINDS).index(erratum.kind)))


def _values() -> list[Erratum]:
    """Means, labels and trial counts."""
    found = []
    usual = Counter(len(trials) for trials in logged().values()).most_common(1)[0][0]
    for cell, value in printed().items():
        trials, source = logged().get(cell, ()), origin(cell)
        stands_for = source.statistics if source else logged_statistics(cell)
        numbers = (value.mean, value.variance, *((stands_for.mean, stands_for.variance) if stands_for else ()))
        if source is None:
            logs = f"{len(trials)} of {usual} trials are logged" if trials else "no trial is logged"
            found.append(Erratum("trials", cell, f"{logs}; they do not give the printed value" if trials else logs, *numbers))
            continue
        pooled = f" (trials 1-{source.count})" if source.count < len(logged()[source.donor]) else ""
        if source.shift:
            away = f"{abs(source.shift):.3f} too {'low' if source.shift < 0 else 'high'}"
            found.append(Erratum("mean", cell, f"printed {away}{pooled}", *numbers))
        if source.donor != cell:
            found.append(Erratum("label", cell, f"the value of {source.donor.backward}{pooled}", *numbers))
        if pooled:
            count = len(logged()[source.donor])
            found.append(Erratum("trials", cell, f"trials 1-{source.count} are pooled, {count} are logged", *numbers))
    return found


def _schedules() -> list[Erratum]:
    """The cells whose learning rate first drops elsewhere than in most: nearer to a later drop of that schedule."""
    at = {cell: first_epoch_after_drop(logged()[cell]) for cell in printed() if cell in logged()}
    usual = int(np.median(list(at.values())))
    late = {cell: epoch for cell, epoch in at.items() if abs(epoch - usual) > abs(epoch - (2 * usual - 1))}  # n + 1, 2n + 1
    if not late:
        return []
    words = f"no drop of the learning rate before epoch {np.median(list(late.values())):.0f}; elsewhere the first is in {usual}"
    return [Erratum("schedule", cell, words) for cell in late]


def _documented() -> list[Erratum]:
    """Facts that the per-epoch data cannot show."""
    every = "all"
    return [
        Erratum(
            "documented",
            Cell(every, every, every, "STE", "Adam"),
            "weight decay 0; the learned gradients with Adam have 5e-4",
        ),
        Erratum("documented", Cell(every, every, every, "MultiFC", every), "3 linear layers; the text says 2"),
        Erratum("documented", Cell("ResNet20", "CIFAR10", every, every, every), "390 iterations per epoch; all other runs 391"),
        Erratum("documented", Cell("ResNet20", "CIFAR10", every, "FC-Grad", every), "began as STE; all other runs at random"),
    ]


def errata_records() -> list[dict[str, Any]]:
    """A row per disagreement and cell."""
    return [erratum.record() for erratum in errata()]


def errata_table() -> list[tuple[str, ...]]:
    """For reading: rows (kind, cells, finding, printed, logs); cells of one net with one finding and no value share a row."""
    together: dict[tuple[str, str, str], list[Erratum]] = {}
    for erratum in errata():
        where = str(erratum.cell) if erratum.kind in ("mean", "label") else erratum.cell.model
        together.setdefault((erratum.kind, where, erratum.finding), []).append(erratum)
    rows = []
    for (kind, where, finding), members in together.items():
        first, values = members[0], ("", "")
        if kind in ("mean", "label"):
            values = (
                mean_variance(first.printed_mean, first.printed_variance),
                mean_variance(first.logs_mean, first.logs_variance),
            )
        else:
            net = " ".join(part for part in first.cell[:2] if part != "all")
            cells = ", ".join(" ".join(part for part in e.cell[2:] if part != "all") or "all" for e in members)
            if len(members) == sum(cell[:2] == first.cell[:2] for cell in printed()):
                cells = f"all {len(members)} cells"
            where = f"{net}: {cells}" if net else cells
        rows.append((kind, where, finding, *values))
    return rows
