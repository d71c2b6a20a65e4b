"""A process at work on a run's folder: its lock, its record run.json, its checkpoints."""

import json
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from meta_utils.training import TrainingLoop
from utils.environment import describe, git_state, peak_memory, random_states, restore_random_states, versions
from utils.errors import BadInput, Finished, Interrupted, RunFailed, first_line
from utils.quantize import Evaluation
from utils.recorder import Recorder
from utils.run.checkpoint import Checkpoints
from utils.run.lock import Lock
from utils.run.record import REPLACED, check_record
from utils.run.settings import Settings
from utils.run.signals import Signals
from utils.text import printable


class Run:
    """A run's folder while a process works on it: `with Run(...) as run`.

    Entering makes the folder or goes on with the one there, and locks it; `overwrite` moves the old one to replaced/ first.
    Leaving records how it ended: done; failed, with the error; or, after SIGINT or SIGTERM, still running, to be resumed.
    Raises BadInput and Finished as check_record does, and InUse where another process works on it.
    """

    def __init__(self, path: Path, settings: Settings, device: torch.device, overwrite: bool = False):
        self.path, self.settings, self.device = path, settings, device
        self.checkpoints = Checkpoints(path)
        self.result: dict[str, float] = {}
        self._overwrite = overwrite
        self._signals = Signals()
        every = str(settings.checkpoint_every)
        self._every, self._in_iterations = int(every.removesuffix("it")), every.endswith("it")

    def __enter__(self) -> "Run":
        try:
            if self._overwrite and self.path.exists():
                self._move_aside()
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"--results-root: cannot make the run's folder: {error}") from None
        self._lock = Lock(self.path)
        if self._lock.left_behind:
            print(f"note: {self._lock.left_behind} worked on {self.path} and is gone; taking over", file=sys.stderr)
        try:
            record = check_record(self.path, self.settings) or {"started": _now()}
            session = {
                "began": _now(),
                "command": sys.argv,
                "versions": versions(),
                "device": describe(self.device),
                "hostname": platform.node(),
                "git": git_state(),
            }
            if record.get("device", session["device"]) != session["device"]:
                print(f"note: {self.path} was on {printable(record['device'])} before; now {session['device']}", file=sys.stderr)
            self._began, self._seconds_before = time.time(), record.get("seconds", 0.0)
            self._memory_before = record.get("peak_memory", {})
            self.record = {**record, "state": "running", "settings": self.settings.as_dict(), **session}
            self.record["sessions"] = [*record.get("sessions", []), session]
            self.write()
        except BaseException as error:
            self._lock.release()
            if isinstance(error, OSError):
                raise BadInput(f"{self.path} cannot be worked on: {error}") from None
            raise
        self._signals.__enter__()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self._signals.__exit__(kind, error, trace)
        try:
            if error is None:
                self.write(state="done", ended=_now(), result=self.result, error=None)
            elif isinstance(error, (Interrupted, Finished)):
                self.write(error=str(error))
            else:
                self.write(state="failed", ended=_now(), error=first_line(error))
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

    def write(self, **changes: Any) -> None:
        """Updates the record, its times and memory, and run.json."""
        seconds = self._seconds_before + time.time() - self._began
        memory = self._memory_before
        now = {kind: max(size, memory.get(kind, 0)) for kind, size in peak_memory(self.device).items()}
        self.record.update(seconds=seconds, peak_memory=memory | now, **changes)
        temporary = self.path / "run.json.tmp"
        try:
            with open(temporary, "w") as file:
                file.write(json.dumps(self.record, indent=1) + "\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path / "run.json")
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def note_eager(self, why: str) -> None:
        """Says, and records, that the iterations are not captured any more."""
        print(f"note: {self.path}: iterations run eagerly, one kernel launched after the other: {why}", file=sys.stderr)
        self.write(captured=False, eager_because=why)

    def resume(self, loop: TrainingLoop) -> dict[str, Any]:
        """Brings the loop to the newest whole checkpoint, or leaves it at its start; returns the recorder's state ({}: start).

        Raises BadInput where checkpoints were written and are gone.
        """
        state = self.checkpoints.load()
        if state is None:
            if self.record.get("iterations_done"):
                there = f"{self.record['iterations_done']} iterations were done"
                raise BadInput(f"{self.path} has no checkpoint, but {there}: put it back, or --overwrite to start over")
            return {}
        loop.load_state_dict(state["loop"])
        restore_random_states(state["random"])
        self.result = state["result"]
        self.write(epochs_done=len(state["recorder"]["test_acc"]), iterations_done=loop.iteration)
        print(f"{self.path}: resumed after {loop.iteration} iterations")
        return state["recorder"]

    def save(self, loop: TrainingLoop, recorder: Recorder) -> None:
        """Writes a checkpoint of everything, then run.json."""
        state = {"settings": self.settings.as_dict(), "loop": loop.state_dict(), "recorder": recorder.state_dict()}
        self.checkpoints.save({**state, "random": random_states(), "result": self.result})
        self.write(epochs_done=recorder.epoch, iterations_done=loop.iteration, seconds_per_epoch=recorder.seconds_per_epoch)

    def last_checkpoint(self) -> str:
        """The last good checkpoint in words."""
        if "iterations_done" not in self.record:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is {self.checkpoints.newest}, after {self.record['iterations_done']} iterations"

    def give_way(self, loop: TrainingLoop, recorder: Recorder) -> None:
        """Saves and raises: Interrupted, once SIGINT or SIGTERM has come; Finished, once --stop-after is reached."""
        if self._signals.noted is not None:
            self.save(loop, recorder)
            raise Interrupted(self._signals.noted)
        if self._is_over(loop):
            self.save(loop, recorder)
            raise Finished(f"{self.path} stopped after {loop.iteration} iterations; without --stop-after it goes on")

    def _is_over(self, loop: TrainingLoop) -> bool:
        return self.settings.stop_after is not None and loop.iteration >= self.settings.stop_after

    def _is_checkpoint(self, loop: TrainingLoop) -> bool:
        return self._in_iterations and loop.iteration % self._every == 0

    def is_due(self, loop: TrainingLoop) -> bool:
        """Whether `after_iteration` has something to do."""
        return self._signals.noted is not None or self._is_over(loop) or self._is_checkpoint(loop)

    def after_iteration(self, loop: TrainingLoop, recorder: Recorder) -> None:
        """Gives way to a signal or --stop-after, or saves where --checkpoint-every counts iterations and says so."""
        self.give_way(loop, recorder)
        if self._is_checkpoint(loop):
            self.save(loop, recorder)

    def after_epoch(self, loop: TrainingLoop, recorder: Recorder, evaluation: Evaluation) -> None:
        """Keeps the epoch's result; gives way to a signal, or saves every so many epochs and at the end."""
        self.result = {**evaluation._asdict(), "best_top1": recorder.get_best_test_acc()}
        self.give_way(loop, recorder)
        last = recorder.stop or recorder.epoch == self.settings.epochs
        if last or (not self._in_iterations and recorder.epoch % self._every == 0):
            self.save(loop, recorder)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
