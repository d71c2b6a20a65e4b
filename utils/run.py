"""A run's folder: its name, its record run.json, its lock, its checkpoints; base-model files."""

import fcntl
import json
import os
import platform
import signal
import struct
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from meta_utils.training import TrainingLoop
from utils.checkpoint import Checkpoints, load_tensors
from utils.environment import describe, git_state, peak_memory, random_states, restore_random_states, versions
from utils.miscellaneous import BadInput, Finished, Interrupted, InUse, RunFailed
from utils.quantize import Evaluation
from utils.recorder import Recorder

REPLACED = "replaced"
MAY_DIFFER = ("data_root", "results_root", "workers", "checkpoint_every", "eager", "stop_after")  # where and how, not what


def dataset_label(dataset_name: str) -> str:
    """The data set's name in folder names: NPZ:/a/set.npz is NPZ-set."""
    return f"NPZ-{Path(dataset_name[4:]).stem}" if dataset_name.startswith("NPZ:") else dataset_name


def experiment_folder(results_root: str | Path, model: str, dataset: str) -> Path:
    """<results_root>/<Model>-<Dataset>, which holds the base model and the runs."""
    return Path(results_root) / f"{model}-{dataset_label(dataset)}"


def base_model_path(results_root: str | Path, model: str, dataset: str) -> Path:
    """Where `pretrain` writes and `train` looks for the full-precision base model."""
    folder = experiment_folder(results_root, model, dataset)
    return folder / f"{folder.name}-pretrain.pth"


def run_name(settings: dict[str, Any]) -> str:
    """The folder name of a training run, from its resolved settings."""
    s = settings
    quantized = f"{s['quantizer']}-{{}}{s['optimizer']}-{s['bits']}bits-lr-{s['lr_adjust']}"
    if s["backward"] == "STE":
        name = "Baseline-" + quantized.format("optimizer-")
    else:
        size = "".join(f"-{tag}-{s[key]}" for tag, key in (("nfc", "num_fc"), ("nlstm", "num_lstm")) if s[key] is not None)
        nonlinear = s["meta_nonlinear"] or "None"
        name = f"Meta-{s['backward']}-Nonlinear-{nonlinear}-hidden-size-{s['hidden_size']}{size}-{quantized.format('')}"
    spec = f"-{s['exp_spec']}" if s["exp_spec"] else ""
    return f"{name}{spec}-trial-{s['trial']}"


def run_path(settings: dict[str, Any]) -> Path:
    """The folder of a training run."""
    folder = experiment_folder(settings["results_root"], settings["model"], settings["dataset"])
    return folder / "runs-Quant" / run_name(settings)


def load_base_model(path: str | Path, net: nn.Module, what: str) -> None:
    """Loads a state dict into the net strictly; `what` names flag and net in the error.

    Raises BadInput for a file that is absent, unreadable, not a plain state dict, or of another net.
    """
    weights = load_tensors(path, what)
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise BadInput(f"{what}: {path} is not a plain state dict (name -> tensor)")
    own = net.state_dict()
    wrong = [
        *(f"{name} is missing" for name in own if name not in weights),
        *(f"{name} is unexpected" for name in weights if name not in own),
        *(
            f"{name} has shape {tuple(weights[name].shape)}, not {tuple(own[name].shape)}"
            for name in own
            if name in weights and weights[name].shape != own[name].shape
        ),
    ]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise BadInput(f"{what}: {path} is not a base model of this net: {wrong[0]}{more}")
    net.load_state_dict(weights)


def read_record(path: Path) -> dict[str, Any]:
    """A run's run.json. Raises BadInput where there is none, or not a whole one."""
    try:
        record = json.loads((path / "run.json").read_text())
    except OSError:
        raise BadInput(f"{path} is not a run's folder: it has no run.json") from None
    except ValueError as error:
        raise BadInput(f"{path / 'run.json'} is damaged: {error}") from None
    if not isinstance(record, dict) or not isinstance(record.get("settings"), dict):
        raise BadInput(f"{path / 'run.json'} is not a run's record")
    return record


def check_record(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a run that is to be gone on with; None where it has not begun.

    Raises Finished for one that is done, BadInput where its settings are others, each difference named.
    """
    if not (path / "run.json").exists():
        return None
    record = read_record(path)
    old, new = (json.loads(json.dumps(s)) for s in (record["settings"], settings))
    names = [name for name in sorted(old.keys() | new.keys()) if name not in MAY_DIFFER and old.get(name) != new.get(name)]
    names = [name for name in names if name in old or new[name]]  # a switch that came later, and is off, changes nothing
    if names:
        listed = ", ".join(f"{name} {old.get(name)} there and {new.get(name)} here" for name in names)
        raise BadInput(f"{path} has other settings: {listed}; choose another --exp-spec, or --overwrite to start over")
    if record.get("state") == "done":
        result = record["result"]
        raise Finished(f"{path} is done: test accuracy {result['top1']:.2f} % (best {result['best_top1']:.2f} %)")
    return record


def is_locked(folder: Path) -> bool:
    """Whether another process works on a run's folder. Takes no lock itself, so that it is in no one's way."""
    try:
        descriptor = os.open(folder / "run.lock", os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        kind, start, length, whence, pid = fcntl.F_WRLCK, 0, 0, os.SEEK_SET, 0
        if sys.platform == "darwin":  # struct flock is laid out as the system likes
            answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack("qqihh", start, length, pid, kind, whence))
            kind = struct.unpack("qqihh", answer)[3]
        else:
            answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack("hhqqi4x", kind, whence, start, length, pid))
            kind = struct.unpack("hhqqi4x", answer)[0]
        return kind != fcntl.F_UNLCK
    finally:
        os.close(descriptor)


class Lock:
    """One process per run folder: a POSIX lock on run.lock, which ends with its process, however that ends.

    The file names host and process for the message. Raises InUse where another process holds it.
    """

    def __init__(self, folder: Path):
        path = folder / "run.lock"
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        holder = os.read(self._descriptor, 200).decode(errors="replace").strip()
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise InUse(f"{folder} is in use by {holder or 'another process'} ({path})") from None
        if holder:
            print(f"note: {holder} held {path} and is gone; taking over", file=sys.stderr)
        self._write(f"process {os.getpid()} on {platform.node()}\n")

    def _write(self, text: str) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)

    def release(self) -> None:
        self._write("")
        os.close(self._descriptor)


class Run:
    """A run's folder while a process works on it: `with Run(...) as run`.

    Entering makes the folder or goes on with the one there, and locks it; `overwrite` moves the old one to replaced/ first.
    Leaving records how it ended: done; failed, with the error; or, after SIGINT or SIGTERM, still running, to be resumed.
    Raises BadInput and Finished as check_record does, and InUse where another process works on it.
    """

    def __init__(self, path: Path, settings: dict[str, Any], device: torch.device, overwrite: bool = False):
        self.path, self.settings, self.device = path, settings, device
        self.checkpoints = Checkpoints(path)
        self.result: dict[str, float] = {}
        self._overwrite = overwrite
        self._signal: signal.Signals | None = None
        every = str(settings["checkpoint_every"])
        self._every, self._in_iterations = int(every.removesuffix("it")), every.endswith("it")

    def __enter__(self) -> "Run":
        if self._overwrite and self.path.exists():
            self._move_aside()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"--results-root: cannot make the run's folder: {error}") from None
        self._lock = Lock(self.path)
        try:
            record = check_record(self.path, self.settings) or {"started": _now(), "seconds": 0.0, "sessions": []}
            self._began, self._seconds_before = time.time(), record["seconds"]
            self.record = {
                **record,
                "state": "running",
                "settings": self.settings,
                "command": sys.argv,
                "versions": versions(),
                "device": describe(self.device),
                "hostname": platform.node(),
                "git": git_state(),
                "sessions": [*record["sessions"], _now()],
            }
            self.write()
        except BaseException:
            self._lock.release()
            raise
        self._handlers = {s: signal.signal(s, self._note_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        for which, handler in self._handlers.items():
            signal.signal(which, handler)
        try:
            if error is None:
                self.write(state="done", ended=_now(), result=self.result, error=None)
            elif isinstance(error, (Interrupted, Finished)):
                self.write(error=str(error))
            else:
                self.write(state="failed", ended=_now(), error=str(error) or kind.__name__)
        except OSError:
            if error is None:
                raise
        finally:
            self._lock.release()
        if isinstance(error, OSError):
            raise RunFailed(f"{self.path}: {error}; {self.last_checkpoint()}") from error

    def _move_aside(self) -> None:
        lock = Lock(self.path)
        target = self.path.parent / REPLACED / f"{self.path.name}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
        target.parent.mkdir(exist_ok=True)
        self.path.rename(target)
        lock.release()
        print(f"moved the old run to {target}")

    def _note_signal(self, number: int, frame: object) -> None:
        self._signal = signal.Signals(number)

    def write(self, **changes: Any) -> None:
        """Updates the record, its times and memory, and run.json."""
        seconds = self._seconds_before + time.time() - self._began
        self.record.update(seconds=seconds, peak_memory=peak_memory(self.device), **changes)
        temporary = self.path / "run.json.tmp"
        try:
            temporary.write_text(json.dumps(self.record, indent=1) + "\n")
            temporary.replace(self.path / "run.json")
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def resume(self, loop: TrainingLoop) -> dict[str, Any]:
        """Brings the loop to the newest whole checkpoint, or leaves it at its start; returns the recorder's state ({}: start)."""
        state = self.checkpoints.load()
        if state is None:
            return {}
        loop.load_state_dict(state["loop"])
        restore_random_states(state["random"])
        self.result = state["result"]
        self.record["iterations_done"] = loop.iteration
        print(f"{self.path}: going on after {loop.iteration} iterations")
        return state["recorder"]

    def save(self, loop: TrainingLoop, recorder: Recorder) -> None:
        """Writes a checkpoint of everything, then run.json."""
        state = {"settings": self.settings, "loop": loop.state_dict(), "recorder": recorder.state_dict()}
        self.checkpoints.save({**state, "random": random_states(), "result": self.result})
        self.write(epochs_done=recorder.epoch, iterations_done=recorder.iteration, seconds_per_epoch=recorder.seconds_per_epoch)

    def last_checkpoint(self) -> str:
        """The last good checkpoint in words."""
        if "iterations_done" not in self.record:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is {self.checkpoints.newest}, after {self.record['iterations_done']} iterations"

    def give_way(self, loop: TrainingLoop, recorder: Recorder) -> None:
        """Saves and raises: Interrupted, once SIGINT or SIGTERM has come; Finished, once --stop-after is reached."""
        if self._signal is not None:
            self.save(loop, recorder)
            raise Interrupted(self._signal)
        if self._is_over(loop):
            self.save(loop, recorder)
            raise Finished(f"{self.path} stopped after {loop.iteration} iterations; without --stop-after it goes on")

    def _is_over(self, loop: TrainingLoop) -> bool:
        return self.settings["stop_after"] is not None and loop.iteration >= self.settings["stop_after"]

    def _is_checkpoint(self, loop: TrainingLoop) -> bool:
        return self._in_iterations and loop.iteration % self._every == 0

    def is_due(self, loop: TrainingLoop) -> bool:
        """Whether `after_iteration` has something to do."""
        return self._signal is not None or self._is_over(loop) or self._is_checkpoint(loop)

    def after_iteration(self, loop: TrainingLoop, recorder: Recorder) -> None:
        """Gives way to a signal or --stop-after, or saves where --checkpoint-every counts iterations and says so."""
        self.give_way(loop, recorder)
        if self._is_checkpoint(loop):
            self.save(loop, recorder)

    def after_epoch(self, loop: TrainingLoop, recorder: Recorder, evaluation: Evaluation) -> None:
        """Keeps the epoch's result; gives way to a signal, or saves every so many epochs and at the end."""
        self.result = {**evaluation._asdict(), "best_top1": recorder.get_best_test_acc()}
        self.give_way(loop, recorder)
        last = recorder.stop or recorder.epoch == self.settings["epochs"]
        if last or (not self._in_iterations and recorder.epoch % self._every == 0):
            self.save(loop, recorder)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
