"""The runs that a manifest's tables stand for: which ones a command selects, their commands, and how far each is."""

import os
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from utils import MAIN
from utils.errors import BadInput, Finished, shortened
from utils.files.look import why_no_folder
from utils.files.markdown import markdown_table
from utils.files.text import counted, printable
from utils.run.folder.lock import is_locked
from utils.run.folder.name import run_path
from utils.run.folder.record import LONGEST_ERROR, check_record, ended_early, read_record
from utils.run.identity import program_contents
from utils.run.paths import NO_BASE_MODEL, RECORD, base_model_path, has_checkpoint, missing_base_model
from utils.run.settings import TrainSettings
from utils.tables.cells import Cell
from utils.tables.grid import Grid, can_be_varied, combinations, exp_spec, read_grid
from utils.tables.manifest import ALL, NOT_SETTINGS, Key, Row, overridden, read_manifest
from utils.tables.options import Selection

MAX_RUNS = 100_000
ADVICE = "--set exp-spec=NAME gives these runs folders of their own, another --results-root, too"


class State(StrEnum):
    """How far a run is."""

    DONE = "done"
    RUNNING = "running"  # a process works on it
    STOPPED = "cut off"  # began, and nobody works on it: to be resumed
    FAILED = "failed"
    REFUSED = "refused"  # its folder holds another run, a damaged record, or logs without one
    MISSING = "missing"


@dataclass(frozen=True, eq=False)
class TableRun:
    """A trial of a row: its settings, its folder, and the program that runs it (main.py, or one like it)."""

    row: Row
    settings: TrainSettings
    path: Path
    program: Path

    def __str__(self) -> str:
        return f"{self.row} trial {self.trial}"

    @property
    def trial(self) -> int:
        return self.settings.trial

    @property
    def command(self) -> list[str]:
        """The command line that carries it out."""
        return [sys.executable, str(self.program), "train", *self.settings.arguments()]

    def state(self) -> tuple[State, str]:
        """How far the run is, and why where it failed, is refused, or ended before its last epoch."""
        if is_locked(self.path):
            return State.RUNNING, ""
        try:
            record = check_record(self.path, self.settings, self._contents(), ADVICE)
        except Finished:
            return State.DONE, ended_early(read_record(self.path))
        except BadInput as error:
            return State.REFUSED, str(error)
        if record is None:
            return State.MISSING, ""
        if record["state"] != "failed":
            return State.STOPPED, ""
        return State.FAILED, shortened(record.get("error") or "", LONGEST_ERROR)

    def _contents(self) -> dict[str, str]:
        """The digests of its program and, if it has begun, of the runs that --phi and --pretrained name, if they are there."""
        named = [Path(given) for given in (self.settings.phi, self.settings.pretrained) if given]
        if not (self.path / RECORD).is_file() or not any(map(Path.is_dir, named)):
            return program_contents(self.program)
        from utils.run.start.start import Start  # torch

        return program_contents(self.program) | Start(self.settings, self.path).contents

    def epochs(self) -> tuple[int, int]:
        """Epochs that its last checkpoint holds, and how many there will be: no more where it is done."""
        planned = self.settings.epochs
        try:
            record = read_record(self.path)
        except BadInput:
            return 0, planned
        is_done = record["state"] == "done"
        done = min(record.get("epochs_done", planned if is_done else 0), planned)
        return done, done if is_done else planned


def select_runs(selection: Selection, program: Path = MAIN) -> list[TableRun]:
    """The selected runs of the chosen tables, first trials first.

    A row that two tables share counts once, with the larger number of trials. program: what runs them. Raises BadInput for an
    unknown table, a selection that leaves nothing, a trial that no cell has, settings that `train` does not take, or rows whose
    runs would share a folder.
    """
    if why := why_no_folder(selection.results_root, may_be_absent=True):
        raise BadInput(f"--results-root {selection.results_root}: {why}")
    manifest = read_manifest(selection.manifest, selection.protocol)
    tables = list(manifest) if ALL in selection.tables else selection.tables
    for table in tables:
        if table not in manifest:
            raise BadInput(f"{table}: no such table in {selection.manifest}, which has {', '.join(manifest)} (or all)")
    rows = _chosen_rows(_each_once(row for table in tables for row in manifest[table]), selection, tables)
    there = selection.trials or max(row.trials for row in rows.values())
    if absent := [str(trial) for trial in selection.trial if trial > there]:
        raise BadInput(f"--trial {' '.join(absent)}: there are trials 1 to {there}")
    trials = {key: _chosen_trials(selection.trials or row.trials, selection.trial) for key, row in rows.items()}
    varied = _varied_rows(rows.values(), read_grid(selection.grid, dict(selection.set)))
    if (selected := sum(len(trials[row.key]) for row in varied)) > MAX_RUNS:
        raise BadInput(f"--manifest {selection.manifest}: these are {selected} runs; at most {MAX_RUNS} can be selected")
    pairs = sorted(((trial, row) for row in varied for trial in trials[row.key]), key=lambda pair: pair[0])
    index, count = selection.slice or (1, 1)
    if count > len(pairs):
        raise BadInput(f"--slice {index}/{count}: only {len(pairs)} runs are selected; N must be at most {len(pairs)}")
    runs = [_table_run(row, trial, selection, program) for trial, row in pairs]
    _check_folders(runs)
    return runs[index - 1 :: count]


def _each_once(rows: Iterable[Row]) -> dict[Key, Row]:
    """The rows by key; of several with one key, the one with most trials."""
    once: dict[Key, Row] = {}
    for row in rows:
        if row.key not in once or row.trials > once[row.key].trials:
            once[row.key] = row
    return once


def _check_folders(runs: Iterable[TableRun]) -> None:
    """Raises BadInput for two runs of one folder, as where --set gives the variants of a cell one exp-spec."""
    owners: dict[Path, TableRun] = {}
    for run in runs:
        if (other := owners.setdefault(run.path, run)) is not run:
            raise BadInput(f"{other} and {run} would have the same folder, {run.path}; each needs an exp-spec of its own")


def _chosen_rows(rows: dict[Key, Row], selection: Selection, tables: Iterable[str]) -> dict[Key, Row]:
    """The rows that meet the selection. Raises BadInput for a name that no cell has, naming those there are, and for no row."""
    wanted = {field: names for field in Cell._fields if (names := getattr(selection, field, ()))}
    for field, names in wanted.items():
        there = dict.fromkeys(getattr(row.cell, field) for row in rows.values())
        if unknown := [name for name in names if name not in there]:
            raise BadInput(f"no cell of {', '.join(tables)} has --{field} {' '.join(unknown)}; there are {', '.join(there)}")
    chosen = {key: row for key, row in rows.items() if all(getattr(row.cell, field) in names for field, names in wanted.items())}
    if not chosen:
        listed = ", ".join(f"--{field} {' '.join(names)}" for field, names in wanted.items())
        raise BadInput(f"no cell of {', '.join(tables)} has {listed}")
    return chosen


def _varied_rows(rows: Iterable[Row], grid: Grid) -> list[Row]:
    """Each row once for every combination of a grid's values. Raises BadInput for a setting that no row has a use for."""
    varied = [replace(row, varied=values) for row in rows for values in combinations(grid, row.cell)]
    if unused := [name for name in grid if not any(name in row.varied for row in varied)]:
        raise BadInput(f"--grid {unused[0]}: no selected cell uses this setting")
    return varied


def _chosen_trials(count: int, only: Collection[int]) -> list[int]:
    """Trials 1 to count, or those of them in `only`."""
    return [trial for trial in range(1, count + 1) if not only or trial in only]


def status_table(runs: list[TableRun]) -> str:
    """A Markdown table, a row per cell, exp-spec and combination of a sweep's values: how many of its trials are in which state.

    Below it: why runs failed, are refused or ended before their last epoch.
    """
    states = {run: run.state() for run in runs}
    by_row: dict[str, list[TableRun]] = {}
    for run in runs:
        by_row.setdefault(str(run.row), []).append(run)

    def counts(members: Iterable[TableRun]) -> list[str]:
        tally = Counter(states[run][0] for run in members)
        return [str(tally[state] or "") for state in State]

    rows = [[name, members[0].row.published or "", *counts(members)] for name, members in by_row.items()]
    table = markdown_table(("cell", "published", *State), *rows, [counted(len(runs), "run"), "", *counts(runs)])
    reasons = [printable(f"{state}: {run}: {why}") for run, (state, why) in states.items() if why]
    return "\n".join([table, *([""] if reasons else []), *reasons])


def without_base_model(runs: Sequence[TableRun]) -> dict[TableRun, str]:
    """The runs that lack the base model that they begin from, and how to make it. Raises BadInput where all of them do."""
    lacking = {}
    for run in runs:
        s = run.settings
        if has_checkpoint(run.path):
            continue
        if missing := missing_base_model(s.pretrained, s.model, s.dataset):
            lacking[run] = f"{missing}, or give --pretrained-root a folder, or none for scratch"
    if lacking and len(lacking) == len(runs):
        run, why = next(iter(lacking.items()))
        raise BadInput(f"{run.row.cell}: {why}")
    return lacking


def fetch_data(runs: Iterable[TableRun]) -> None:
    """Downloads what data sets are missing. Raises BadInput where one is not available."""
    from utils.dataset import load_images  # torch

    for dataset, root in dict.fromkeys((run.settings.dataset, run.settings.data_root) for run in runs):
        load_images(dataset, "test", root)


def _table_run(row: Row, trial: int, selection: Selection, program: Path) -> TableRun:
    """A trial of a row, with the command line's settings over the manifest's."""
    chosen = dict(selection.set)
    for name in chosen:
        if sum(other == name for other, _ in selection.set) > 1:
            advice = f"; --grid {name}=... takes several values" if can_be_varied(name) else ""
            raise BadInput(f"--set {name}: is given more than once{advice}")
        if name in ("overwrite", "help"):
            raise BadInput(f"--set {name}: is not a setting; --set exp-spec=NAME or another --results-root starts runs anew")
        if name in (*NOT_SETTINGS, "epochs"):
            raise BadInput(f"--set {name}: is set by the cell or the trial, or has a flag of its own")
    values = overridden(row.cell._asdict() | row.settings, chosen)
    values |= {"epochs": selection.epochs} if selection.epochs else {}
    if row.varied:
        values |= {**row.varied, "exp-spec": exp_spec(values.get("exp-spec"), row.varied)}
    values |= {"data-root": selection.data_root, "results-root": selection.results_root, "trial": trial}
    if selection.pretrained_root:
        values["pretrained"] = _base_model(selection.pretrained_root, row.cell, selection.results_root)
    told = [*(["--set", *map("=".join, chosen.items())] if chosen else []), *selection.flags(["grid"])]
    settings = TrainSettings.from_values(values, f"{' '.join(told) or f'--manifest {selection.manifest}'}, {row}")
    return TableRun(row, settings, run_path(settings), program)


def _base_model(root: str, cell: Cell, results_root: str) -> str:
    """The base model: below `root`, as `pretrain` names it, in a folder of its own or not; else where `pretrain` wrote it."""
    if root == NO_BASE_MODEL:
        return root
    if why := why_no_folder(root):
        raise BadInput(f"--pretrained-root {root} (or METAQUANT_PRETRAINED): there is no such folder: {why}")
    nested = base_model_path(root, cell.model, cell.dataset)
    own = base_model_path(results_root, cell.model, cell.dataset)
    return str(next((path for path in (nested, Path(root) / nested.name) if os.path.isfile(path)), own))
