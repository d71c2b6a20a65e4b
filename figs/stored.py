"""Which runs the programs here store: those with the expected settings, and of each cell and trial the longest."""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from utils.files.text import printable
from utils.report.csv_files import read_csv
from utils.report.labels import labels
from utils.report.published import printed
from utils.report.reading import find_trials
from utils.report.trials import Trial
from utils.run.identity import BASE_MODEL, DATA, PROGRAM, in_words
from utils.tables.cells import Cell

DRAWS = ("seed", "loader")  # settings that a trial's random draws depend on beside its number


class Run(Protocol):
    """What identifies a run: its cell, and its number among the trials of the cell."""

    cell: Cell
    number: int


AnyRun = TypeVar("AnyRun", bound=Run)


def trials_below(roots: Iterable[Path]) -> list[Trial]:
    """The trials below the roots, by cell in the paper's order and by number. Exits if a file cannot be read."""
    trials, problems = find_trials(roots)
    if problems:
        sys.exit("\n".join(problems))
    return in_order(trials)


def in_order(runs: Iterable[AnyRun]) -> list[AnyRun]:
    """Runs by cell, in the order of the paper's tables (other cells last), and by number."""
    place = {cell: number for number, cell in enumerate(printed())}
    return sorted(runs, key=lambda run: (place.get(run.cell, len(place)), run.cell, run.number))


def by_cell(runs: Iterable[AnyRun]) -> dict[Cell, list[AnyRun]]:
    """Cell -> its runs, in their order; [] for a cell without any."""
    cells = defaultdict(list)
    for run in runs:
        cells[run.cell].append(run)
    return cells


def read_stored(path: Path) -> list[Trial]:
    """The stored trials; none where there is no file."""
    return read_csv(path) if path.is_file() else []


def as_expected(
    trials: Iterable[Trial], expected: Callable[[Trial], Mapping[str, Any] | None], stored: Iterable[Trial]
) -> list[Trial]:
    """The trials with the settings that are expected of them (None: of no trial of its cell), and with the data and base model of
    the stored trials; others are named on stderr.
    """
    found, stored = [], list(stored)
    for trial in trials:
        settings = expected(trial)
        why = "its cell is none of scripts/manifest.toml"
        if settings is not None:
            why = deviations(trial, settings) or other_contents(trial, stored)
        if why:
            print(printable(f"{trial.source}: skipped, because of its settings: {why}"), file=sys.stderr)
        else:
            found.append(trial)
    return found


def deviations(trial: Trial, expected: Mapping[str, Any]) -> str:
    """The settings in which a trial differs from the expected ones, in words; "" if in none.

    Names, paths and device are not compared, nor is a setting that an earlier record lacks.
    """
    (label,) = labels([trial.grouping_key], expected).values()
    values = {name: trial.settings.get(name, expected.get(name)) for name in DRAWS}
    draws = [f"{name} {in_words(value)}" for name, value in values.items() if value != expected.get(name)]
    program = ["a program of its own"] if trial.settings.get(PROGRAM) else []
    return ", ".join(filter(None, [label, *draws, *program]))


def other_contents(trial: Trial, stored: Iterable[Trial]) -> str:
    """In words, a trial's data and base model if they are recorded and no stored trial of its net has them; "" otherwise."""
    found = []
    for name in (DATA, BASE_MODEL):
        known = {one.settings.get(name) for one in stored if one.cell.net == trial.cell.net} - {None}
        own = trial.settings.get(name)
        if known and own is not None and own not in known:
            found.append(f"{name} {in_words(own)}")
    return ", ".join(found)


def merged(stored: Iterable[AnyRun], new: Iterable[AnyRun], length: Callable[[AnyRun], int]) -> list[AnyRun]:
    """Stored and new runs in order, each cell and trial once: the longest run, and of equally long ones the last."""
    found: dict[tuple[Cell, int], AnyRun] = {}
    for run in (*stored, *new):
        other = found.get((run.cell, run.number))
        if other is None or length(run) >= length(other):
            found[run.cell, run.number] = run
    return in_order(found.values())
