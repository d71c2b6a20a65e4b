"""Reading trials: run folders with a run.json, folders with the published names and only the text files, and CSV files."""

import io
import json
import lzma
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from utils.choices import META_NETWORKS, MODELS, OPTIMIZEES, QUANTIZERS
from utils.errors import BadInput, first_line
from utils.files import strict_json
from utils.report.logs import EPOCH, ITERATION, read_log
from utils.report.trials import FULL_PRECISION, Trial
from utils.run.identity import Identity
from utils.run.paths import dataset_label
from utils.run.record import REPLACED, read_record
from utils.tables.cells import Cell

CSV_SUFFIXES = (".csv", ".csv.xz")
CURVES = ("test_acc", "train_loss", "train_acc")
TRIAL = (*Cell._fields, "trial")  # the columns that identify a trial
COLUMNS = (*TRIAL, "epoch", *CURVES, "seconds", "settings", "made_by", "state")


def _any_of(names: Iterable[str]) -> str:
    return "|".join(sorted(names, key=len, reverse=True))


QUANTIZER, OPTIMIZER = _any_of(QUANTIZERS), _any_of(OPTIMIZEES)
METHOD = re.compile(
    rf"(?:Baseline-(?P<ste_quantizer>{QUANTIZER})-optimizer-|"
    rf"Meta-(?P<backward>{_any_of([*META_NETWORKS, 'MLPFC'])})-.*?-(?P<quantizer>{QUANTIZER})-)"
    rf"(?P<optimizer>{OPTIMIZER})-\d+bits.*-trial-(?P<trial>\d+)"
)
NET = re.compile(f"({_any_of(MODELS)})-(.+)")
LARGEST_CSV = 256 << 20  # bytes, unpacked; a hundred times all published runs
JUMP = 10.0  # at the start of an epoch the running mean jumps by more than this many of its usual steps


def find_trials(roots: Iterable[str | Path]) -> tuple[list[Trial], list[str]]:
    """Every trial below the roots (folders, searched at any depth, or CSV files), and a line per file that cannot be read.

    The trials of a root are sorted by their start. Runs in replaced/ are skipped; a folder below several roots is read once.
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
            none = "it holds no runs (no run.json, no folder with a published name)"
            problems.append(f"{root}: {none if root.is_dir() else 'no such folder or CSV file'}")
    return trials, problems


def _sources(root: Path) -> list[Path]:
    """The CSV file itself, or the run folders below a root: those with a run.json by their start, then those with logs alone."""
    if root.is_file() and root.name.endswith(CSV_SUFFIXES):
        return [root]
    recorded, logged = (
        {file.parent for file in root.rglob(name) if REPLACED not in file.relative_to(root).parts}
        for name in ("run.json", "test-acc.txt")
    )
    return [*sorted(recorded, key=lambda path: (_started(path), str(path))), *sorted(logged - recorded)]


def _started(path: Path) -> str:
    try:
        return str(read_record(path).get("started", ""))
    except BadInput:
        return ""


def read_folder(path: Path) -> Trial:
    """The trial in a run's folder, with or without run.json. Raises BadInput if it cannot be read or its method is unknown."""
    return read_run(path) if (path / "run.json").exists() else read_logs(path)


def read_run(path: Path) -> Trial:
    """The trial in a folder with a run.json. An epoch's value is the running mean at its last iteration. Raises BadInput."""
    record = read_record(path)
    try:
        return _recorded_trial(path, record, record["settings"])
    except KeyError as error:
        raise BadInput(f"{path / 'run.json'} is incomplete: it lacks {error}") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise BadInput(f"{path / 'run.json'} is not a run's record: {error}") from None


def _recorded_trial(path: Path, record: dict[str, Any], settings: dict[str, Any]) -> Trial:
    method = ("quantizer", "backward") if "backward" in settings else ()
    names = [settings[name] for name in ("model", *method, "optimizer")]
    if not all(isinstance(name, str) for name in (*names, record["state"])):
        raise ValueError(f"{names} should be names")
    model, quantizer, backward, optimizer = names if method else (names[0], "none", FULL_PRECISION, names[1])
    epochs, per_epoch = int(record.get("epochs_done", 0)), int(record.get("iterations_per_epoch", 1))
    test_acc, loss, train_acc = _logs(path, epochs, epochs * per_epoch, over=record["state"] == "done")
    train_loss, train_acc = (curve[per_epoch - 1 :: per_epoch] for curve in (loss, train_acc))
    return Trial(
        Cell(model, dataset_label(settings["dataset"]), quantizer, backward, optimizer),
        int(settings["trial"]),
        test_acc,
        train_loss,
        train_acc,
        source=path,
        state=record["state"],
        settings=settings | {name: digest[:12] for name, digest in Identity.of_record(record).contents.items()},
        seconds=np.array(record.get("seconds_per_epoch", []), dtype=float),
        error=str(record.get("error") or record.get("ended_early") or ""),
        made_by=_made_by(record),
    )


def _made_by(record: dict[str, Any]) -> str:
    """Device, torch version and commit of the run; all of them in order if it was resumed on others."""
    makers = [_maker(session) for session in record.get("sessions", ()) if isinstance(session, dict)]
    return "; then ".join(dict.fromkeys(makers or [_maker(record)]))


def _maker(record: dict[str, Any]) -> str:
    torch, git = record.get("versions", {}).get("torch", "?"), record.get("git") or {}
    untracked = f" ({git['untracked']} Python files of it untracked)" if git.get("untracked") else ""
    changed = f" with changes{untracked}" if git.get("dirty") else ""
    return f"{record.get('device', '?')}, torch {torch}, commit {str(git.get('commit', '?'))[:10]}{changed}"


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
    cell = Cell(*net.groups(), method["quantizer"] or method["ste_quantizer"], backward, method["optimizer"])
    test_acc = read_log(path / "test-acc.txt", EPOCH, percent=True, counted=False)
    loss, train_acc = read_log(path / "loss.txt", ITERATION), read_log(path / "train-acc.txt", ITERATION, percent=True)
    epochs = len(test_acc)
    if len(loss) != len(train_acc) or len(loss) < epochs:
        raise BadInput(
            f"{path}: {len(loss)} rows in loss.txt, {len(train_acc)} in train-acc.txt, {epochs} epochs in test-acc.txt"
        )
    try:
        per_epoch = iterations_per_epoch(loss, epochs) if epochs else 1
    except ValueError as error:
        raise BadInput(f"{path}: {error}") from None
    train_loss, train_acc = (curve[per_epoch - 1 :: per_epoch][:epochs] for curve in (loss, train_acc))
    folder = path.name[: path.name.rindex("-trial-")]
    return Trial(cell, int(method["trial"]), test_acc, train_loss, train_acc, source=path, settings={"folder": folder})


def iterations_per_epoch(running_mean: np.ndarray, epochs: int) -> int:
    """The number of rows per epoch of a running mean that restarts with each epoch; `epochs`: how many of them were tested.

    Usually the log ends with a tested epoch. If more rows follow, of one epoch at most, the number is taken at whose multiples
    the mean jumps most. Raises ValueError where no number of rows per epoch fits.
    """
    rows = len(running_mean)
    steps = np.abs(np.diff(running_mean))
    usual = np.median(steps) if len(steps) else 0.0

    def jump(per_epoch: int) -> float:
        boundaries = np.arange(per_epoch, rows, per_epoch) - 1
        return np.median(steps[boundaries]) if len(boundaries) else JUMP * usual

    most, fewest = rows // epochs, -(-rows // (epochs + 1))  # without a row left over; with a whole epoch that was not tested
    if not 0 < fewest <= most:
        raise ValueError(f"{rows} iterations cannot be {epochs} epochs of equal length and a part of another")
    return max(range(most, fewest - 1, -1), key=jump)  # of several equal ones the first, which leaves the fewest rows over


def _logs(path: Path, epochs: int, iterations: int, over: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Test accuracy, training loss and training accuracy of a recorded run. Raises BadInput where they do not fit its record.

    over: the run is done, and its logs have no rows beyond the recorded ones; otherwise these are ignored.
    """
    logs = []
    for name, first, rows, percent in (
        ("test-acc", EPOCH, epochs, True),
        ("loss", ITERATION, iterations, False),
        ("train-acc", ITERATION, iterations, True),
    ):
        values = read_log(path / f"{name}.txt", first, None if over else rows, percent)
        if len(values) != rows:
            raise BadInput(f"{path / name}.txt has {len(values)} rows, where run.json says {rows} ({epochs} epochs)")
        logs.append(values)
    return tuple(logs)


def _unpacked(path: Path) -> io.BytesIO:
    """A CSV file's content. Raises ValueError where it has more than LARGEST_CSV bytes, and unpacks no more than those."""
    with lzma.open(path) if path.suffix == ".xz" else open(path, "rb") as file:
        content = file.read(LARGEST_CSV + 1)
    if len(content) > LARGEST_CSV:
        raise ValueError(f"it holds more than {LARGEST_CSV} bytes")
    return io.BytesIO(content)


def read_frame(path: Path, types: Mapping[str, type]) -> pd.DataFrame:
    """A CSV file, compressed or not, with the columns of `types` converted and all others left as text.

    Text is converted by Python's own float and int, so that every written float is read back exactly. Raises BadInput with file
    and reason if the file is damaged or lacks one of the columns.
    """
    try:
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):  # a first row that is too long
            frame = pd.read_csv(_unpacked(path), dtype=str, keep_default_na=False, index_col=False)
        if missing := [name for name in types if name not in frame]:
            raise ValueError(f"it has no column {', '.join(missing)}")
        return frame.astype(dict(types))
    except (OSError, EOFError, lzma.LZMAError, ValueError, pd.errors.ParserWarning) as error:
        raise BadInput(f"{path} cannot be read: {first_line(error)}") from None


def read_csv(path: Path) -> list[Trial]:
    """The trials of a .csv or .csv.xz file with a row per epoch.

    Columns: model, dataset, quantizer (or forward), backward, optimizer, trial, epoch (from 1), test_acc, train_loss, train_acc;
    if known also seconds, and on a trial's first row settings (JSON), made_by and state (else: done). Epoch 1 begins a trial.
    Raises BadInput with file and reason.
    """
    types = dict.fromkeys(("trial", "epoch"), int) | dict.fromkeys(CURVES, float)
    frame = read_frame(path, types).rename(columns={"forward": "quantizer"})
    try:
        if missing := [name for name in Cell._fields if name not in frame]:
            raise ValueError(f"it has no column {', '.join(missing)}")
        begun = frame["epoch"].eq(1).groupby([frame[name] for name in TRIAL]).cumsum().rename("begun")
        return [
            _csv_trial(path, Cell(*cell), int(number), count, rows)
            for (*cell, number, count), rows in frame.groupby([*TRIAL, begun], sort=False)
        ]
    except ValueError as error:
        raise BadInput(f"{path} cannot be read: {first_line(error)}") from None


def _csv_trial(path: Path, cell: Cell, number: int, begun: int, rows: pd.DataFrame) -> Trial:
    """begun: how often epoch 1 was met up to these rows."""
    if not begun:
        raise ValueError(f"{cell} trial {number} has no first epoch")
    if list(rows["epoch"]) != list(range(1, len(rows) + 1)):
        raise ValueError(f"the epochs of {cell} trial {number} are not 1 to {len(rows)} in order")
    first = rows.iloc[0]
    settings = json.loads(first.get("settings") or "null") or {"folder": path.name}
    if not isinstance(settings, dict):
        raise ValueError(f"the settings of {cell} trial {number} are not an object")
    seconds = np.array([float(text) for text in rows.get("seconds", ()) if text])
    made_by, state = first.get("made_by") or "", first.get("state") or "done"
    curves = (rows[name].to_numpy() for name in CURVES)
    return Trial(cell, number, *curves, source=path, state=state, settings=settings, seconds=seconds, made_by=made_by)


def write_csv(trials: Iterable[Trial], path: Path) -> None:
    """Writes the trials' finished epochs as a CSV file that `read_csv` reads. Paths are not written."""
    rows = []
    for trial in trials:
        settings = strict_json.dumps(trial.portable_settings) if trial.recorded else ""
        seconds = trial.seconds if len(trial.seconds) == trial.epochs else [""] * trial.epochs
        curves = zip(*(getattr(trial, name) for name in CURVES), seconds, strict=True)
        for epoch, values in enumerate(curves, start=1):
            first = (settings, trial.made_by, trial.state) if epoch == 1 else ("", "", "")
            rows.append((*trial.cell, trial.number, epoch, *values, *first))
    pd.DataFrame(rows, columns=COLUMNS).to_csv(path, index=False, na_rep="nan", lineterminator="\n")
