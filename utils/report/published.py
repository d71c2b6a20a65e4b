"""What was published (Chen, Wang, Pan, NeurIPS 2019), read from figs/published: printed tables, logged trials, errata."""

from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import pandas as pd

from utils import PROJECT
from utils.report.csv_files import read_csv, read_frame
from utils.report.labels import OTHER_FORM
from utils.report.statistics import Statistics, statistics
from utils.report.trials import Trial
from utils.run.settings import TrainSettings
from utils.tables.cells import Cell
from utils.tables.manifest import MANIFEST, Row, read_manifest

FOLDER = PROJECT / "figs" / "published"
SOURCE = "Chen, Wang, Pan, NeurIPS 2019"
ERRATA_KINDS = {
    "mean": "the printed mean is off by a whole number, and the printed variance is that of the logs",
    "label": "the labels of two rows are swapped: in the logs, the printed value is the other row's",
    "trials": "the printed value was computed from other trials than those that are logged",
    "schedule": "the learning rate drops at another epoch than in the other runs, as the training accuracy shows",
    "page": "the authors' own results page prints another value than the paper",
    "drop": "the accuracy drop printed in Table 4 does not follow from Table 1",
    "documented": "a setting that the per-epoch data do not show, known from the names and settings of the published runs",
}


class Printed(NamedTuple):
    """A cell of Table 1 or 2 as printed, percent: mean and variance of the last 10 epochs, and the full-precision accuracy."""

    table: int
    mean: float
    variance: float
    full_precision: float


class Erratum(NamedTuple):
    """A place where the published tables, logs and texts disagree; the fields are the columns of errata.csv.

    kind: a key of ERRATA_KINDS. model to optimizer: the cell, where "all" stands for every value. Numbers in percent, NaN where
    there is none: the printed value, and the logged value that it stands for.
    """

    kind: str
    model: str
    dataset: str
    quantizer: str
    backward: str
    optimizer: str
    finding: str
    printed_mean: float = float("nan")
    printed_variance: float = float("nan")
    logs_mean: float = float("nan")
    logs_variance: float = float("nan")

    @property
    def cell(self) -> Cell:
        """Where it is."""
        return Cell(*self[1:6])


@cache
def printed() -> dict[Cell, Printed]:
    """The 70 cells of Tables 1 and 2, in their order."""
    numbers = {"table": int} | dict.fromkeys(("last10_mean", "last10_variance", "fp_acc"), float)
    frame = read_frame(FOLDER / "published_tables.csv", numbers)
    return {
        Cell(*cell): Printed(table, mean, variance, full_precision)
        for table, *cell, mean, variance, full_precision in _rows(frame)
    }


def _rows(frame: pd.DataFrame) -> Iterable[tuple]:
    return frame.itertuples(index=False, name=None)


@cache
def published_settings(cell: Cell) -> dict[str, Any] | None:
    """The settings of a cell as the published logs show them, by name as in run.json; None for a cell that is not in
    scripts/manifest.toml, which has all printed ones.
    """
    rows = _manifest_rows()
    if cell not in rows:
        return None
    return TrainSettings.from_values(cell._asdict() | rows[cell].settings, f"{MANIFEST}, {cell}").as_dict()


def is_published(trial: Trial) -> bool:
    """Whether a trial can stand beside printed numbers: its cell is printed, it has as many epochs as the published runs, and, if
    it has no record, its folder's name says nothing that the names of the published runs do not.
    """
    settings = published_settings(trial.cell) if trial.cell in printed() else None
    return settings is not None and settings["epochs"] == trial.epochs and OTHER_FORM not in trial.settings


@cache
def _manifest_rows() -> dict[Cell, Row]:
    return {row.cell: row for rows in read_manifest(MANIFEST, "logs").values() for row in rows}


@cache
def printed_best() -> dict[Cell, tuple[float, float]]:
    """The printed "Best Acc" of ResNet20 on CIFAR-10: mean and variance, over the trials, of the best epoch; percent."""
    frame = read_frame(FOLDER / "published_best_resnet20.csv", {"best_mean": float, "best_variance": float})
    return {Cell("ResNet20", "CIFAR10", *method): (mean, variance) for *method, mean, variance in _rows(frame)}


@cache
def logged() -> dict[Cell, tuple[Trial, ...]]:
    """The logged trials of the cells that have any, by trial number."""
    cells: dict[Cell, tuple[Trial, ...]] = {}
    for trial in sorted(read_csv(FOLDER / "published_runs.csv.xz"), key=lambda trial: trial.number):
        cells[trial.cell] = (*cells.get(trial.cell, ()), trial)
    return cells


@cache
def logged_statistics(cell: Cell) -> Statistics | None:
    """The statistics of all logged trials of a cell; None if none is logged."""
    return statistics(logged()[cell]) if cell in logged() else None


@cache
def errata() -> tuple[Erratum, ...]:
    """The errata of the published tables, as figs/published/errata.py has written them."""
    return tuple(Erratum(*row) for row in _rows(pd.read_csv(FOLDER / "errata.csv")))
