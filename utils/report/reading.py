"""Reading trials: run folders with a run.json, folders with the published names and only the text files, and CSV files."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from utils.choices import META_NETWORKS, MODELS, OPTIMIZEES, QUANTIZERS
from utils.errors import BadInput, first_line
from utils.report.csv_files import CSV_SUFFIXES, read_csv
from utils.report.folders import find_runs
from utils.report.trials import BASE_MODEL, FULL_PRECISION, Trial
from utils.run.paths import dataset_label
from utils.run.record import LONGEST_ERROR, read_record
from utils.tables.cells import Cell
from utils.text import printable, shortened
from utils.untrusted import why_no_folder


def _any_of(names: Iterable[str]) -> str:
    return "|".join(sorted(names, key=len, reverse=True))


QUANTIZER, OPTIMIZER = _any_of(QUANTIZERS), _any_of(OPTIMIZEES)
METHOD = re.compile(
    rf"(?:Baseline-(?P<ste_quantizer>{QUANTIZER})-optimizer-|"
    rf"Meta-(?P<backward>{_any_of([*META_NETWORKS, 'MLPFC'])})-.*?-(?P<quantizer>{QUANTIZER})-)"
    rf"(?P<optimizer>{OPTIMIZER})-\d+bits.*-trial-(?P<trial>\d+)"
)
NET = re.compile(f"({_any_of(MODELS)})-(.+)")
JUMP = 10.0  # at the start of an epoch the running mean jumps by more than this many of its usual steps


def find_trials(roots: Iterable[str | Path]) -> tuple[list[Trial], list[str]]:
    """Every trial below the roots (folders, searched at any depth, or CSV files), and a line for whatever cannot be read.

    The trials of a root are sorted by their start. Runs in replaced/ are skipped; a folder below several roots is read once.
    """
    trials, problems, seen = [], [], set()
    for root in map(Path, roots):
        paths, unseen = _sources(root)
        problems += unseen
        if not paths and not unseen:
            problems.append(f"{root}: it holds no runs (no run.json, no folder with a published name)")
        for path in paths:
            real = os.path.realpath(path)
            if real in seen:
                continue
            seen.add(real)
            try:
                new = [read_folder(path)] if os.path.isdir(path) else read_csv(path)
            except BadInput as error:
                problems.append(str(error))
                continue
            trials += new
            problems += [] if new else [f"{path} has no rows"]
    return trials, problems


def _sources(root: Path) -> tuple[list[Path], list[str]]:
    """The CSV file itself, or the run folders below a root: those with a run.json by their start, then those with logs alone.

    Beside them a line for each folder that cannot be looked at.
    """
    why = why_no_folder(root)
    if why is None:
        recorded, logged, problems = find_runs(root)
        return [*sorted(recorded, key=lambda path: (_started(path), str(path))), *sorted(logged)], problems
    if root.name.endswith(CSV_SUFFIXES) and os.path.exists(root):
        return [root], []
    return [], [f"{root} is neither a folder nor a CSV file that can be read: {why}"]


def _started(path: Path) -> str:
    try:
        return read_record(path).get("started", "")
    except BadInput:
        return ""


def read_folder(path: Path) -> Trial:
    """The trial in a run's folder, with or without run.json. Raises BadInput if it cannot be read or its method is unknown."""
    return read_run(path) if os.path.lexists(path / "run.json") else read_logs(path)


def read_run(path: Path) -> Trial:
    """The trial in a folder with a run.json. An epoch's value is the running mean at its last iteration. Raises BadInput."""
    record = read_record(path)
    try:
        return _recorded_trial(path, record, record["settings"])
    except KeyError as error:
        raise BadInput(f"{path / 'run.json'} is incomplete: it lacks {error}") from None


def _recorded_trial(path: Path, record: dict[str, Any], settings: dict[str, Any]) -> Trial:
    given = {name: value for name, value in settings.items() if value is not None}
    method = ("quantizer", "backward") if "backward" in settings else ()
    names = [given[name] for name in ("model", *method, "optimizer")]
    model, quantizer, backward, optimizer = names if method else (names[0], "none", FULL_PRECISION, names[1])
    epochs, per_epoch = record.get("epochs_done", 0), record.get("iterations_per_epoch", 1)
    test_acc, loss, train_acc = (_column(path / f"{name}.txt") for name in ("test-acc", "loss", "train-acc"))
    train_loss, train_acc = (curve[per_epoch - 1 :: per_epoch][:epochs] for curve in (loss, train_acc))
    if not len(test_acc[:epochs]) == len(train_loss) == len(train_acc) == epochs:
        raise BadInput(f"{path}: its logs are shorter than the {epochs} epochs of run.json")
    return Trial(
        Cell(model, printable(dataset_label(given["dataset"])), quantizer, backward, optimizer),
        given["trial"],
        test_acc[:epochs],
        train_loss,
        train_acc,
        source=path,
        state=record["state"],
        settings=settings | ({BASE_MODEL: record["base_model"][:12]} if record.get("base_model") else {}),
        seconds=np.array(record.get("seconds_per_epoch", []), dtype=float),
        error=printable(shortened(record.get("error") or "", LONGEST_ERROR)),
        made_by=_made_by(record),
    )


def _made_by(record: dict[str, Any]) -> str:
    """Device, torch version and commit of the run; all of them in order if it was resumed on others."""
    makers = [_maker(session) for session in record.get("sessions", ())]
    return printable("; then ".join(dict.fromkeys(makers or [_maker(record)])))


def _maker(record: dict[str, Any]) -> str:
    torch, git = record.get("versions", {}).get("torch", "?"), record.get("git") or {}
    changed = " with changes" if git.get("dirty") else ""
    return f"{record.get('device', '?')}, torch {torch}, commit {git.get('commit', '?')[:10]}{changed}"


def read_logs(path: Path) -> Trial:
    """The trial in a folder with a published name, .../<Model>-<Dataset>/.../<name>-trial-<n>, that holds only the text files.

    Raises BadInput for another name, or if the text files cannot be read.
    """
    method = METHOD.fullmatch(path.name)
    net = next((match for parent in path.absolute().parents if (match := NET.fullmatch(parent.name))), None)
    if method is None or net is None:
        missing = "name of a run" if method is None else "<Model>-<Dataset> above it"
        raise BadInput(f"{path}: its cell is unknown, because it has no run.json and no {missing}")
    backward = {None: "STE", "MLPFC": "MultiFC"}.get(method["backward"], method["backward"])
    cell = Cell(net[1], printable(net[2]), method["quantizer"] or method["ste_quantizer"], backward, method["optimizer"])
    test_acc, loss, train_acc = (_column(path / f"{name}.txt") for name in ("test-acc", "loss", "train-acc"))
    epochs = len(test_acc)
    if len(loss) != len(train_acc) or len(loss) < epochs:
        raise BadInput(
            f"{path}: {len(loss)} rows in loss.txt, {len(train_acc)} in train-acc.txt, {epochs} epochs in test-acc.txt"
        )
    per_epoch = iterations_per_epoch(loss, epochs) if epochs else 1
    train_loss, train_acc = (curve[per_epoch - 1 :: per_epoch][:epochs] for curve in (loss, train_acc))
    folder = path.name[: path.name.rindex("-trial-")]
    return Trial(cell, int(method["trial"]), test_acc, train_loss, train_acc, source=path, settings={"folder": folder})


def iterations_per_epoch(running_mean: np.ndarray, epochs: int) -> int:
    """The number of rows per epoch of a running mean that restarts with each epoch; `epochs`: how many of them are whole.

    Usually the log ends with an epoch. If it ends within one, the number is taken at whose multiples the mean jumps most.
    """
    rows = len(running_mean)
    steps = np.abs(np.diff(running_mean))
    usual = np.median(steps) if len(steps) else 0.0

    def jump(per_epoch: int) -> float:
        boundaries = np.arange(per_epoch, rows, per_epoch) - 1
        return np.median(steps[boundaries]) if len(boundaries) else JUMP * usual

    candidates = range(rows // epochs, rows // (epochs + 1), -1)
    return max(candidates, key=jump)  # of several equal ones the first, which leaves the fewest rows over


def _column(path: Path) -> np.ndarray:
    """The last column of rows "count, value"; empty if the file is absent or empty. Raises BadInput if it cannot be read."""
    try:
        if not path.is_file() or not path.stat().st_size:
            return np.empty(0)
        return np.loadtxt(path, delimiter=",", ndmin=2)[:, -1]
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {first_line(error)}") from None
