"""What was published (Chen, Wang, Pan, NeurIPS 2019): the printed tables and the logged trials, by cell."""

import csv
from functools import cache
from typing import Any, NamedTuple

from utils import PROJECT
from utils.report.reading import read_csv
from utils.report.trials import Statistics, Trial, statistics
from utils.run.settings import TrainSettings
from utils.tables.cells import Cell
from utils.tables.manifest import MANIFEST, Row, read_manifest

FOLDER = PROJECT / "figs" / "published"
SOURCE = "Chen, Wang, Pan, NeurIPS 2019"


class Printed(NamedTuple):
    """A cell of Table 1 or 2 as printed: mean (variance) of the last 10 epochs, percent."""

    table: int
    mean: float
    variance: float


@cache
def printed() -> dict[Cell, Printed]:
    """The 70 cells of Tables 1 and 2, in their order."""
    cells = {}
    with open(FOLDER / "published_tables.csv", newline="") as file:
        for row in csv.DictReader(file):
            cell = Cell(row["network"], row["dataset"], row["forward"], row["backward"], row["optimizer"])
            cells[cell] = Printed(int(row["table"]), float(row["last10_mean"]), float(row["last10_variance"]))
    return cells


@cache
def published_settings(cell: Cell) -> dict[str, Any] | None:
    """The settings of a printed cell as the published logs show them, by name as in run.json; None for another cell."""
    rows = _manifest_rows()
    if cell not in rows:
        return None
    return TrainSettings.from_values(cell._asdict() | rows[cell].settings, f"{MANIFEST}, {cell}").as_dict()


@cache
def _manifest_rows() -> dict[Cell, Row]:
    return {row.cell: row for table in read_manifest(MANIFEST, "logs").values() for row in table.rows}


@cache
def printed_best() -> dict[Cell, tuple[float, float]]:
    """The printed "Best Acc" of ResNet20 on CIFAR-10: mean and variance over trials of the best epoch, percent."""
    with open(FOLDER / "published_best_resnet20.csv", newline="") as file:
        return {
            Cell("ResNet20", "CIFAR10", row["forward"], row["backward"], row["optimizer"]): (
                float(row["best_mean"]),
                float(row["best_variance"]),
            )
            for row in csv.DictReader(file)
        }


@cache
def logged() -> dict[Cell, tuple[Trial, ...]]:
    """The logged trials of the cells that have any, by trial number."""
    cells: dict[Cell, tuple[Trial, ...]] = {}
    for trial in sorted(read_csv(FOLDER / "published_runs.csv.xz"), key=lambda trial: trial.number):
        cells[trial.cell] = (*cells.get(trial.cell, ()), trial)
    return cells


@cache
def logged_statistics(cell: Cell) -> Statistics | None:
    """Of a cell's logged trials, all of them; None where none is logged."""
    return statistics(logged()[cell]) if cell in logged() else None
