"""Reading trials: run folders with run.json, folders in the published names that hold only the text files, and CSV files."""

import csv
import json
import lzma
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from utils.choices import META_NETWORKS, MODELS, OPTIMIZEES, QUANTIZERS
from utils.errors import BadInput, first_line
from utils.report.trials import BASE_MODEL, FULL_PRECISION, Trial
from utils.run.paths import dataset_label
from utils.run.record import REPLACED, read_record
from utils.run.settings import MAY_DIFFER
from utils.tables.cells import Cell

CSV_SUFFIXES = (".csv", ".csv.xz")
CURVES = ("test_acc", "train_loss", "train_acc")
FIRST_ROW = ("settings", "made_by", "state")  # columns that only a trial's first row fills
COLUMNS = ("model", "dataset", "quantizer", "backward", "optimizer", "trial", "epoch", *CURVES, "seconds", *FIRST_ROW)


def _any_of(names: Iterable[str]) -> str:
    return "|".join(sorted(names, key=len, reverse=True))


QUANTIZER, OPTIMIZER = _any_of(QUANTIZERS), _any_of(OPTIMIZEES)
METHOD = re.compile(
    rf"(?:Baseline-(?P<ste_quantizer>{QUANTIZER})-optimizer-|"
    rf"Meta-(?P<backward>{_any_of([*META_NETWORKS, 'MLPFC'])})-.*?-(?P<quantizer>{QUANTIZER})-)"
    rf"(?P<optimizer>{OPTIMIZER})-\d+bits.*-trial-(?P<trial>\d+)"
)
NET = re.compile(f"({_any_of(MODELS)})-(.+)")
JUMP = 10.0  # where the running mean starts anew it jumps by more than this many of its usual steps


def find_trials(roots: Iterable[str | Path]) -> tuple[list[Trial], list[str]]:
    """Every trial below the roots (folders at any depth, or CSV files), oldest first per root, and a line per thing unreadable.

    Runs moved to replaced/ are left out. A folder that several roots reach is read once.
    """
    trials, problems, seen = [], [], set()
    for root in map(Path, roots):
        found = 0
        for path in _sources(root):
            if (real := path.resolve()) in seen:
                found += 1
                continue
            seen.add(real)
            try:
                new = read_csv(path) if path.name.endswith(CSV_SUFFIXES) else [read_folder(path)]
            except BadInput as error:
                problems.append(str(error))
                new = []
            found += 1
            trials += new
        if not found:
            none = "no runs below it (no run.json, no folder in the published names)"
            problems.append(f"{root}: {none if root.is_dir() else 'no such folder or CSV file'}")
    return trials, problems


def _sources(root: Path) -> list[Path]:
    """The CSV file itself, or the run folders below a root: those with a run.json, by its start, then those with logs alone."""
    if root.is_file() and root.name.endswith(CSV_SUFFIXES):
        return [root]
    recorded, logged = (
        {file.parent for file in root.rglob(name) if REPLACED not in file.relative_to(root).parts}
        for name in ("run.json", "test-acc.txt")
    )
    bare = logged - recorded
    return [*sorted(recorded, key=lambda path: (_started(path), str(path))), *sorted(bare)]


def _started(path: Path) -> str:
    try:
        return str(read_record(path).get("started", ""))
    except BadInput:
        return ""


def read_folder(path: Path) -> Trial:
    """A run's folder, with or without run.json. Raises BadInput for one that cannot be read, or is of no known method."""
    return read_run(path) if (path / "run.json").exists() else read_logs(path)


def read_run(path: Path) -> Trial:
    """A folder with a run.json. The value of an epoch is the running mean at its last iteration. Raises BadInput."""
    record = read_record(path)
    try:
        return _recorded_trial(path, record, record["settings"])
    except KeyError as error:
        raise BadInput(f"{path / 'run.json'} is not a whole record: it lacks {error}") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise BadInput(f"{path / 'run.json'} is not a run's record: {error}") from None


def _recorded_trial(path: Path, record: dict[str, Any], settings: dict[str, Any]) -> Trial:
    method = ("quantizer", "backward") if "backward" in settings else ()
    names = [settings[name] for name in ("model", *method, "optimizer")]
    if not all(isinstance(name, str) for name in (*names, record["state"])):
        raise ValueError(f"{names} should be names")
    model, quantizer, backward, optimizer = names if method else (names[0], "none", FULL_PRECISION, names[1])
    epochs, per_epoch = int(record.get("epochs_done", 0)), int(record.get("iterations_per_epoch", 1))
    test_acc, loss, train_acc = (_column(path / f"{name}.txt") for name in ("test-acc", "loss", "train-acc"))
    train_loss, train_acc = (curve[per_epoch - 1 :: per_epoch][:epochs] for curve in (loss, train_acc))
    if not len(test_acc[:epochs]) == len(train_loss) == len(train_acc) == epochs:
        raise BadInput(f"{path}: its logs are shorter than the {epochs} epochs of run.json")
    return Trial(
        Cell(model, dataset_label(settings["dataset"]), quantizer, backward, optimizer),
        int(settings["trial"]),
        test_acc[:epochs],
        train_loss,
        train_acc,
        source=path,
        state=record["state"],
        settings=settings | ({BASE_MODEL: record["base_model"][:12]} if record.get("base_model") else {}),
        seconds=np.array(record.get("seconds_per_epoch", []), dtype=float),
        error=record.get("error") or "",
        made_by=_made_by(record),
    )


def _made_by(record: dict[str, Any]) -> str:
    """What made it: one device and version after the other, where it was resumed on others."""
    makers = [_maker(session) for session in record.get("sessions", ()) if isinstance(session, dict)]
    return "; then ".join(dict.fromkeys(makers or [_maker(record)]))


def _maker(record: dict[str, Any]) -> str:
    torch, git = record.get("versions", {}).get("torch", "?"), record.get("git") or {}
    changed = " with changes" if git.get("dirty") else ""
    return f"{record.get('device', '?')}, torch {torch}, commit {str(git.get('commit', '?'))[:10]}{changed}"


def read_logs(path: Path) -> Trial:
    """A folder in the published names, .../<Model>-<Dataset>/.../<name>-trial-<n>, that holds only the text files.

    Raises BadInput for another name, or for text files that cannot be read.
    """
    method = METHOD.fullmatch(path.name)
    net = next((match for parent in path.absolute().parents if (match := NET.fullmatch(parent.name))), None)
    if method is None or net is None:
        missing = "name of a run" if method is None else "<Model>-<Dataset> above it"
        raise BadInput(f"{path}: no run.json, and no {missing}, so that its cell is unknown")
    backward = {None: "STE", "MLPFC": "MultiFC"}.get(method["backward"], method["backward"])
    cell = Cell(*net.groups(), method["quantizer"] or method["ste_quantizer"], backward, method["optimizer"])
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
    """How many rows an epoch has, of a running mean that starts anew with each epoch, when `epochs` whole ones are logged.

    A whole number of epochs is the rule; a last, unfinished one adds rows, and then the true boundaries are where the mean
    jumps.
    """
    rows = len(running_mean)
    steps = np.abs(np.diff(running_mean))
    usual = np.median(steps) if len(steps) else 0.0

    def jump(per_epoch: int) -> float:
        boundaries = np.arange(per_epoch, rows, per_epoch) - 1
        return np.median(steps[boundaries]) if len(boundaries) else JUMP * usual

    candidates = range(rows // epochs, rows // (epochs + 1), -1)
    return max(candidates, key=jump)  # of equals the first: the fewest rows left over


def _column(path: Path) -> np.ndarray:
    """The last column of rows "count, value"; an absent or empty file: nothing. Raises BadInput for a file that is none such."""
    try:
        if not path.is_file() or not path.stat().st_size:
            return np.empty(0)
        return np.loadtxt(path, delimiter=",", ndmin=2)[:, -1]
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {first_line(error)}") from None


def read_csv(path: Path) -> list[Trial]:
    """The trials of a .csv or .csv.xz file, a row per epoch.

    Columns: model, dataset, quantizer (or forward), backward, optimizer, trial, epoch (from 1), test_acc, train_loss, train_acc;
    where known also seconds, and on a trial's first row settings (JSON), made_by and state (else: done). Raises BadInput with
    file and reason.
    """
    found: list[tuple[Cell, int, list[dict[str, str]]]] = []
    current: dict[tuple[Cell, int], list[dict[str, str]]] = {}
    try:
        for row in _csv_rows(path):
            cell = Cell(row["model"], row["dataset"], row.get("quantizer") or row["forward"], row["backward"], row["optimizer"])
            key = cell, int(row["trial"])
            if row["epoch"] == "1":
                current[key] = []
                found.append((*key, current[key]))
            current[key].append(row)
        return [_csv_trial(path, *trial) for trial in found]
    except KeyError as error:
        raise BadInput(f"{path} cannot be read: no column or no first epoch: {error}") from None
    except (OSError, EOFError, lzma.LZMAError, csv.Error, ValueError, TypeError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from None


def _csv_rows(path: Path) -> Iterator[dict[str, str]]:
    opener = lzma.open if path.suffix == ".xz" else open
    with opener(path, "rt", newline="") as file:
        yield from csv.DictReader(file)


def _csv_trial(path: Path, cell: Cell, number: int, rows: list[dict[str, str]]) -> Trial:
    if [row["epoch"] for row in rows] != [str(epoch + 1) for epoch in range(len(rows))]:
        raise ValueError(f"the epochs of {cell} trial {number} are not 1 to {len(rows)} in order")
    curves = [np.array([float(row[name]) for row in rows]) for name in CURVES]
    seconds = np.array([float(row["seconds"]) for row in rows if row.get("seconds")])
    known = json.loads(rows[0].get("settings") or "null") or {"folder": path.name}
    if not isinstance(known, dict):
        raise ValueError(f"the settings of {cell} trial {number} are not an object")
    made_by, state = rows[0].get("made_by") or "", rows[0].get("state") or "done"
    return Trial(cell, number, *curves, source=path, state=state, settings=known, seconds=seconds, made_by=made_by)


def write_csv(trials: Iterable[Trial], path: Path) -> None:
    """The trials' finished epochs as a .csv.xz that `read_csv` reads. Where files lay is not written."""
    with lzma.open(path, "wt", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for trial in trials:
            kept = {name: value for name, value in trial.settings.items() if name not in MAY_DIFFER}
            if kept.get("pretrained"):
                kept["pretrained"] = Path(kept["pretrained"]).name
            first = (json.dumps(kept) if trial.recorded else "", trial.made_by, trial.state)
            seconds = trial.seconds if len(trial.seconds) == trial.epochs else [""] * trial.epochs
            for k, values in enumerate(zip(trial.test_acc, trial.train_loss, trial.train_acc, seconds, strict=True)):
                writer.writerow([*trial.cell, trial.number, k + 1, *values, *(first if k == 0 else [""] * len(first))])
