"""Reading trials: run folders with a run.json, folders with the published names and only the text files, and CSV files."""

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from utils import LAYERS_LOG, LOSS_LOG, TEST_LOG, TRAIN_LOG, VALIDATION_LOG, log_file
from utils.choices import ESTIMATORS, META_NETWORKS, MODELS, OPTIMIZEES, PROXIMAL, QUANTIZERS, STE, usual_bits
from utils.errors import BadInput, shortened
from utils.files.look import why_no_folder
from utils.files.text import counted, printable
from utils.report.csv_files import CSV_SUFFIXES, read_csv
from utils.report.folders import find_runs
from utils.report.labels import OTHER_FORM
from utils.report.layers import read_layers
from utils.report.logs import EPOCH, ITERATION, read_log
from utils.report.published import published_settings
from utils.report.trials import Trial
from utils.run.folder.record import LONGEST_ERROR, read_record
from utils.run.identity import Identity
from utils.run.paths import RECORD, TORCHVISION_LABEL, dataset_label, model_of
from utils.tables.cells import FULL_PRECISION, Cell


def _any_of(names: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(names, key=len, reverse=True)))


QUANTIZER, OPTIMIZER = _any_of(QUANTIZERS), _any_of(OPTIMIZEES)
METHOD = re.compile(
    rf"(?:Baseline-(?:(?P<fixed>{_any_of([*ESTIMATORS, *PROXIMAL])})-)?(?P<fixed_quantizer>{QUANTIZER})-optimizer-|"
    rf"Meta-(?P<backward>{_any_of([*META_NETWORKS, 'MLPFC'])})-(?P<meta_network>.*?)-(?P<quantizer>{QUANTIZER})-)"
    rf"(?P<optimizer>{OPTIMIZER})-(?P<bits>\d+)bits(?:-(?P<more>.*))?-trial-(?P<trial>\d+)"
)
PUBLISHED_META_NETWORK = re.compile(r"Nonlinear-None-hidden-size-100(-nfc-3|-nlstm-1)?")
NET = re.compile(rf"({_any_of(MODELS)}|{TORCHVISION_LABEL}\w+)-(.+)")
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
            problems.append(f"{root}: it holds no runs (no {RECORD}, no folder with a published name)")
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
            trials += [_with_layers(trial, problems) for trial in new] if os.path.isdir(path) else new
            problems += [] if new else [f"{path} has no rows"]
    return trials, problems


def _with_layers(trial: Trial, problems: list[str]) -> Trial:
    """The trial of a folder with its layers.csv; a file with impossible values is named among the problems and not used."""
    try:
        layers = read_layers(trial.source / log_file(LAYERS_LOG), trial.epochs, over=trial.state == "done")
    except BadInput as error:
        problems.append(str(error))
        return trial
    return replace(trial, layers=layers)


def _sources(root: Path) -> tuple[list[Path], list[str]]:
    """The CSV file itself, or the run folders below a root: those with a run.json by their start, then those with logs alone.

    Beside them a line for each folder that cannot be accessed.
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
    return read_run(path) if os.path.lexists(path / RECORD) else read_logs(path)


def read_run(path: Path) -> Trial:
    """The trial in a folder with a run.json. An epoch's value is the running mean at its last iteration. Raises BadInput."""
    record = read_record(path)
    try:
        return _recorded_trial(path, record, record["settings"])
    except KeyError as error:
        raise BadInput(f"{path / RECORD} is incomplete: it lacks {error}") from None


def _recorded_trial(path: Path, record: dict[str, Any], settings: dict[str, Any]) -> Trial:
    given = {name: value for name, value in settings.items() if value is not None}
    method = ("quantizer", "backward") if "backward" in settings else ()
    names = [given[name] for name in ("model", *method, "optimizer")]
    model, quantizer, backward, optimizer = names if method else (names[0], "none", FULL_PRECISION, names[1])
    epochs, per_epoch = record.get("epochs_done", 0), record.get("iterations_per_epoch", 1)
    logs = _logs(path, epochs, epochs * per_epoch, record["state"] == "done", validated=bool(given.get("validation")))
    train_loss, train_acc = (logs[name][per_epoch - 1 :: per_epoch] for name in (LOSS_LOG, TRAIN_LOG))
    return Trial(
        Cell(model, printable(dataset_label(given["dataset"])), quantizer, backward, optimizer),
        given["trial"],
        logs[TEST_LOG],
        train_loss,
        train_acc,
        source=path,
        state=record["state"],
        settings=settings | {name: digest[:12] for name, digest in Identity.of_record(record).contents.items()},
        seconds=_seconds(record.get("seconds_per_epoch", [])),
        error=printable(shortened(_error(record, path), LONGEST_ERROR)),
        made_by=_made_by(record),
        val_acc=logs.get(VALIDATION_LOG, np.empty(0)),
    )


def _error(record: dict[str, Any], path: Path) -> str:
    """Why a run failed or ended early, without the name of its own folder at the beginning."""
    error = record.get("error") or record.get("ended_early") or ""
    folder, name, rest = error.partition(f"{path.name} ")
    return rest if name and folder.startswith(str(record["settings"].get("results_root", path.parent))) else error


def _seconds(per_epoch: list[float]) -> np.ndarray:
    """Seconds per epoch; empty, which means unknown, where a clock that was set back has made one negative."""
    seconds = np.array(per_epoch, dtype=float)
    return np.empty(0) if (seconds < 0).any() else seconds


def _made_by(record: dict[str, Any]) -> str:
    """Device, torch version and commit of the run; all of them in order if it was resumed on others."""
    makers = [_maker(session) for session in record.get("sessions", ())]
    return printable("; then ".join(dict.fromkeys(makers or [_maker(record)])))


def _maker(record: dict[str, Any]) -> str:
    torch, git = record.get("versions", {}).get("torch", "?"), record.get("git") or {}
    untracked = f" ({counted(git['untracked'], 'Python file')} of it untracked)" if git.get("untracked") else ""
    changed = f" with changes{untracked}" if git.get("dirty") else ""
    return f"{record.get('device', '?')}, torch {torch}, commit {git.get('commit', '?')[:10]}{changed}"


def read_logs(path: Path) -> Trial:
    """The trial in a folder with a published name, .../<Model>-<Dataset>/.../<name>-trial-<n>, that holds only the text files.

    Raises BadInput for another name, or if the text files cannot be read.
    """
    method = METHOD.fullmatch(path.name)
    net = next((match for parent in path.absolute().parents if (match := NET.fullmatch(parent.name))), None)
    if method is None or net is None:
        missing = "name of a run" if method is None else "<Model>-<Dataset> above it"
        raise BadInput(f"{path}: its cell is unknown, because it has no {RECORD} and no {missing}")
    backward = method["fixed"] or {None: STE, "MLPFC": "MultiFC"}.get(method["backward"], method["backward"])
    quantizer = method["quantizer"] or method["fixed_quantizer"]
    cell = Cell(model_of(net[1]), printable(net[2]), quantizer, backward, method["optimizer"])
    test_acc = read_log(path / log_file(TEST_LOG), EPOCH, percent=True, counted=False)
    loss, train_acc = (
        read_log(path / log_file(LOSS_LOG), ITERATION),
        read_log(path / log_file(TRAIN_LOG), ITERATION, percent=True),
    )
    epochs = len(test_acc)
    if len(loss) != len(train_acc) or len(loss) < epochs:
        raise BadInput(
            f"{path}: {counted(len(loss), 'row')} in {log_file(LOSS_LOG)}, {len(train_acc)} in {log_file(TRAIN_LOG)}, "
            f"{counted(epochs, 'epoch')} in {log_file(TEST_LOG)}"
        )
    try:
        per_epoch = iterations_per_epoch(loss, epochs) if epochs else 1
    except ValueError as error:
        raise BadInput(f"{path}: {error}") from None
    train_loss, train_acc = (curve[per_epoch - 1 :: per_epoch][:epochs] for curve in (loss, train_acc))
    folder = path.name[: path.name.rindex("-trial-")]
    settings = {"folder": folder} | ({OTHER_FORM: form} if (form := _other_form(cell, method)) else {})
    return Trial(cell, int(method["trial"]), test_acc, train_loss, train_acc, source=path, settings=settings)


def _other_form(cell: Cell, method: re.Match[str]) -> str:
    """What a folder's name says beyond the names of the published runs: M's sizes, bits, and what follows; "" if nothing."""
    sizes, bits, more = method["meta_network"] or "", f"{method['bits']}bits", method["more"] or ""
    schedule = (published_settings(cell) or {}).get("lr_adjust", 30)
    parts = (
        "" if not sizes or PUBLISHED_META_NETWORK.fullmatch(sizes) else sizes,
        "" if bits == f"{usual_bits(cell.quantizer)}bits" else bits,
        "" if more in ("", f"lr-{schedule}") else more,
    )
    return printable("-".join(filter(None, parts)))


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
        raise ValueError(
            f"{counted(rows, 'iteration')} cannot be {counted(epochs, 'epoch')} of equal length and a part of another"
        )
    return max(range(most, fewest - 1, -1), key=jump)  # of several equal ones the first, which leaves the fewest rows over


def _logs(path: Path, epochs: int, iterations: int, over: bool, validated: bool) -> dict[str, np.ndarray]:
    """The logs of a recorded run by name. Raises BadInput where they do not fit its record.

    over: the run is done, and its logs have no rows beyond the recorded ones; otherwise these are ignored. validated: it has
    validation images.
    """
    logs = {}
    for name, first, rows, percent in (
        (TEST_LOG, EPOCH, epochs, True),
        *([(VALIDATION_LOG, EPOCH, epochs, True)] if validated else []),
        (LOSS_LOG, ITERATION, iterations, False),
        (TRAIN_LOG, ITERATION, iterations, True),
    ):
        values = read_log(path / log_file(name), first, None if over else rows, percent)
        if len(values) != rows:
            raise BadInput(
                f"{path / log_file(name)} has {counted(len(values), 'row')}, "
                f"where {RECORD} says {rows} ({counted(epochs, 'epoch')})"
            )
        logs[name] = values
    return logs
