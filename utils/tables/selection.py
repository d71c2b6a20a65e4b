"""The runs that a manifest's tables stand for: which ones a command selects, their commands, and how far each is."""

from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from utils.dataset import load_images
from utils.errors import BadInput, Finished
from utils.run.base_model import what_is_missing
from utils.run.lock import is_locked
from utils.run.record import base_model_path, check_record, read_record, run_path
from utils.tables.cells import Cell
from utils.tables.manifest import NOT_SETTINGS, Row, read_manifest, train_arguments
from utils.tabular import markdown_table

Settings = dict[str, Any]


class State(StrEnum):
    """How far a run is."""

    DONE = "done"
    RUNNING = "running"  # a process works on it
    STOPPED = "cut off"  # began, and nobody works on it: to be resumed
    FAILED = "failed"
    REFUSED = "refused"  # its folder holds a run with other settings, or a damaged record
    MISSING = "missing"


@dataclass(frozen=True, eq=False)
class TableRun:
    """A trial of a cell: what runs it (main.py, or a program like it) with which arguments, resolved settings and folder."""

    row: Row
    trial: int
    program: Path
    argv: list[str]
    settings: Settings
    path: Path

    def __str__(self) -> str:
        return f"{self.row.cell} trial {self.trial}"

    def state(self) -> tuple[State, str]:
        """How far the run is, and why where it failed or is refused."""
        if is_locked(self.path):
            return State.RUNNING, ""
        try:
            record = check_record(self.path, self.settings)
        except Finished:
            return State.DONE, ""
        except BadInput as error:
            return State.REFUSED, str(error)
        if record is None:
            return State.MISSING, ""
        return (State.FAILED, record.get("error") or "") if record.get("state") == "failed" else (State.STOPPED, "")

    def epochs_done(self) -> int:
        """Epochs that its last checkpoint holds; all of them where it is done."""
        try:
            record = read_record(self.path)
        except BadInput:
            return 0
        epochs = self.settings["epochs"]
        return epochs if record.get("state") == "done" else min(record.get("epochs_done", 0), epochs)


def select_runs(args: Namespace, parse: Callable[[list[str], str], Settings]) -> list[TableRun]:
    """The runs of the chosen tables that meet the flags' selection, first trials first; a cell that two tables share counts once.

    parse: arguments of `main.py train` and a prefix for its error -> settings. Raises BadInput for an unknown table, a selection
    that leaves nothing, or settings that `train` does not take.
    """
    manifest = read_manifest(args.manifest, args.protocol)
    names = list(manifest) if "all" in args.tables else args.tables
    for name in names:
        if name not in manifest:
            raise BadInput(f"{name}: no such table in {args.manifest}, which has {', '.join(manifest)} (or all)")
    wanted = {field: getattr(args, field) for field in Cell._fields if getattr(args, field, None)}
    rows = {row.cell: row for name in names for row in manifest[name].rows if _meets(row.cell, wanted)}
    if not rows:
        listed = ", ".join(f"--{field} {' '.join(values)}" for field, values in wanted.items())
        raise BadInput(f"no cell of {', '.join(names)} has {listed}")
    trials = {cell: _chosen_trials(args.trials or row.trials, args.trial) for cell, row in rows.items()}
    if not any(trials.values()):
        there = args.trials or max(row.trials for row in rows.values())
        raise BadInput(f"--trial {' '.join(map(str, args.trial))}: there are trials 1 to {there}")
    pairs = sorted(((trial, row) for row in rows.values() for trial in trials[row.cell]), key=lambda pair: pair[0])
    index, count = args.slice or (1, 1)
    if count > len(pairs):
        raise BadInput(f"--slice {index}/{count}: there are {len(pairs)} runs to share out")
    return [_plan(row, trial, args, parse) for trial, row in pairs[index - 1 :: count]]


def status_table(runs: list[TableRun]) -> str:
    """A Markdown table, a row per cell: how many of its trials are in which state; below it, why runs failed or are refused."""
    states = {run: run.state() for run in runs}
    by_cell: dict[Cell, list[TableRun]] = {}
    for run in runs:
        by_cell.setdefault(run.row.cell, []).append(run)

    def counts(members: Iterable[TableRun]) -> list[str]:
        found = Counter(states[run][0] for run in members)
        return [str(found[state] or "") for state in State]

    rows = [[str(cell), members[0].row.published or "", *counts(members)] for cell, members in by_cell.items()]
    table = markdown_table(("cell", "published", *State), *rows, [f"{len(runs)} runs", "", *counts(runs)])
    reasons = [f"{state}: {run}: {why}" for run, (state, why) in states.items() if why]
    return "\n".join([table, *([""] if reasons else []), *reasons])


def without_base_model(runs: Sequence[TableRun]) -> dict[TableRun, str]:
    """The runs that lack their base model, and how to make it. Raises BadInput where all of them do."""
    found = {run: what_is_missing(run.settings) for run in runs}
    lacking = {run: f"{missing}, or name a folder with --pretrained-root" for run, missing in found.items() if missing}
    if lacking and len(lacking) == len(runs):
        run, why = next(iter(lacking.items()))
        raise BadInput(f"{run.row.cell}: {why}")
    return lacking


def fetch_data(runs: Iterable[TableRun]) -> None:
    """Downloads what data sets are missing. Raises BadInput where one is not available."""
    for dataset, root in dict.fromkeys((run.settings["dataset"], run.settings["data_root"]) for run in runs):
        load_images(dataset, "test", root)


def _plan(row: Row, trial: int, args: Namespace, parse: Callable[[list[str], str], Settings]) -> TableRun:
    """A trial of a row, with the command line's settings over the manifest's."""
    chosen = dict(args.set)
    for name in chosen:
        if name in (*NOT_SETTINGS, "epochs"):
            raise BadInput(f"--set {name}: is the cell's, the trial's, or has a flag of its own")
    settings = row.settings | ({"epochs": args.epochs} if args.epochs else {}) | chosen
    settings |= {"data-root": args.data_root, "results-root": args.results_root, "trial": trial}
    if args.pretrained_root:
        settings["pretrained"] = _base_model(args.pretrained_root, row.cell, args.results_root)
    argv = train_arguments(row.cell, settings)
    origin = f"--set {' '.join(f'{name}={value}' for name, value in chosen.items())}" if chosen else f"--manifest {args.manifest}"
    resolved = parse(argv, f"{origin}, {row.cell}")
    return TableRun(row, trial, args.program, ["train", *argv], resolved, run_path(resolved))


def _base_model(root: str, cell: Cell, results_root: str) -> str:
    """The base model: below `root`, as `pretrain` names it, in a folder of its own or not; else where `pretrain` wrote it."""
    if root == "none":
        return root
    if not Path(root).is_dir():
        raise BadInput(f"--pretrained-root {root} (or METAQUANT_PRETRAINED): there is no such folder")
    nested = base_model_path(root, cell.model, cell.dataset)
    own = base_model_path(results_root, cell.model, cell.dataset)
    return str(next((path for path in (nested, Path(root) / nested.name) if path.is_file()), own))


def _meets(cell: Cell, wanted: dict[str, list[str]]) -> bool:
    return all(getattr(cell, field) in values for field, values in wanted.items())


def _chosen_trials(count: int, only: list[int] | None) -> list[int]:
    """Trials 1 to count, or those of them in `only`."""
    return [trial for trial in range(1, count + 1) if only is None or trial in only]
