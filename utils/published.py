"""What was published (Chen, Wang, Pan, NeurIPS 2019): the printed tables and the logged trials, by cell."""

import csv
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from utils.cells import Cell
from utils.options import build_parser, training_settings
from utils.results import read_csv
from utils.trials import Statistics, Trial, statistics

FOLDER = Path(__file__).resolve().parent.parent / "figs" / "published"
SOURCE = "Chen, Wang, Pan, NeurIPS 2019"


class Printed(NamedTuple):
    """A cell of Table 1 or 2 as printed: mean (variance) of the last 10 epochs; the full-precision net's accuracy; percent."""

    table: int
    mean: float
    variance: float
    full_precision: float


@cache
def printed() -> dict[Cell, Printed]:
    """The 70 cells of Tables 1 and 2, in their order."""
    cells = {}
    with open(FOLDER / "published_tables.csv", newline="") as file:
        for row in csv.DictReader(file):
            cell = Cell(row["network"], row["dataset"], row["forward"], row["backward"], row["optimizer"])
            values = (float(row[name]) for name in ("last10_mean", "last10_variance", "fp_acc"))
            cells[cell] = Printed(int(row["table"]), *values)
    return cells


@cache
def published_settings(cell: Cell) -> dict[str, Any] | None:
    """The settings of a printed cell, by name as in run.json: main.py's defaults; None for another cell."""
    if cell not in printed():
        return None
    flags = zip(("-m", "-d", "-q", "-meta", "-o"), cell, strict=True)
    parser = build_parser({"train": published_settings})
    return training_settings(parser.parse_args(["train", *(word for flag in flags for word in flag)]))


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
