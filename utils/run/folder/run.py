"""A process at work on a run's folder: its lock, its record run.json, its checkpoints."""

import platform
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from meta_utils.training import TrainingLoop
from utils.environment import describe, git_state, peak_memory, random_states, versions
from utils.errors import BadInput, Finished, Interrupted, RunFailed, first_line, machine_failure
from utils.files import strict_json
from utils.files.output import BestEffortOutput
from utils.files.regular import is_in_place, replacing, require_regular, unfinished
from utils.files.text import counted, printable
from utils.quantize import Evaluation
from utils.recorder import Recorder
from utils.run.common_settings import Settings
from utils.run.folder.checkpoint import Checkpoints
from utils.run.folder.finite import first_not_finite
from utils.run.folder.lock import LOCKED, Lock
from utils.run.folder.record import REPLACED, check_record
from utils.run.folder.signals import Signals
from utils.run.folder.state import load_state, restore
from utils.run.identity import NOTHING, Identity, check_checkpoint
from utils.run.paths import CHECKPOINTS, RECORD

LONGEST_MOVED = 200  # characters of a run's name that are kept in replaced/, where a time follows

OF_A_SESSION = ("error", "ended", "eager_because")  # fields of run.json that the next session begins without
OWN_FILES = (*LOCKED, RECORD, *CHECKPOINTS, *(unfinished(Path(name)).name for name in (RECORD, CHECKPOINTS[0])))


class Run:
    """A run's folder while a process works on it: `with Run(...) as run`.

    Entering makes the folder or goes on with the one there, and locks it; `overwrite` moves the old one to replaced/ first.
    contents: what the run is made of beside its settings, as in Identity: compared with the record and the checkpoint.
    Leaving records how it ended: done; failed, with the error; or, after a signal, still running, to be resumed.
    Raises BadInput and Finished as check_record does, and InUse where another process works on it.
    """

    def __init__(
        self,
        path: Path,
        settings: Settings,
        device: torch.device,
        overwrite: bool = False,
        contents: Mapping[str, str] = NOTHING,
    ):
        self.path, self.settings, self.device = path, settings, device
        self.checkpoints = Checkpoints(path)
        self.result: dict[str, float] = {}
        self._contents, self._checkpoint = contents, None
        self._overwrite = overwrite
        self._signals, self._output = Signals(), BestEffortOutput()
        every = str(settings.checkpoint_every)
        self._every, self._in_iterations = int(every.removesuffix("it")), every.endswith("it")

    def __enter__(self) -> "Run":
        self._make_folder()
        self._lock = Lock(self.path)
        if self._lock.left_behind:
            print(f"note: {self.path}: {self._lock.left_behind} ended without unlocking it; taking over", file=sys.stderr)
        try:
            self._begin_session()
        except BaseException as error:
            self._lock.release()
            if isinstance(error, OSError):
                raise BadInput(f"{self.path} cannot be used: {error}") from None
            raise
        self._signals.__enter__()
        self._output.__enter__()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self._output.__exit__(kind, error, trace)
        self._signals.__exit__(kind, error, trace)
        try:
            if error is None:
                self.write(state="done", ended=_now(), result=self.result, error=None)
            elif isinstance(error, (Interrupted, Finished)):
                self.write(error=str(error))
            else:
                self.write(state="failed", ended=_now(), error=first_line(error))
        except RunFailed:  # the folder has gone, which explains an OSError
            if error is None or isinstance(error, OSError):
                raise
        except OSError:
            if error is None:
                raise
        finally:
            self._lock.release()
        if why := str(error) if isinstance(error, OSError) else machine_failure(error):
            raise RunFailed(f"{self.path}: {why}; {self.last_checkpoint()}") from error

    def _make_folder(self) -> None:
        """Makes the folder, after moving an old one aside if asked to. Raises BadInput where that fails, and for links in it."""
        try:
            if self._overwrite and self.path.exists():
                self._move_aside()
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"--results-root: cannot make the run's folder: {error}") from None
        try:
            for name in OWN_FILES:
                require_regular(self.path / name)
        except OSError as error:
            raise BadInput(f"{self.path} cannot be used: {error}") from None

    def _begin_session(self) -> None:
        """Records that this process goes on with what is in the folder. Raises BadInput where that is another run."""
        record = check_record(self.path, self.settings, self._contents) or {"started": _now()}
        contents = self._checked_contents(record)
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
        self._began, self._seconds_before = time.monotonic(), record.get("seconds", 0.0)
        self._memory_before = record.get("peak_memory", {})
        before = {name: value for name, value in record.items() if name not in OF_A_SESSION}
        self.record = {**before, "state": "running", "settings": self.settings.as_dict(), **contents, **session}
        self.record["sessions"] = [*record.get("sessions", []), session]
        self.write()

    def _checked_contents(self, record: Mapping[str, Any]) -> Mapping[str, str]:
        """Loads the checkpoint, for `resume`; returns what the run is made of, as far as that is known of one that has begun.

        Raises BadInput where the checkpoint is of another run.
        """
        own, recorded = Identity.of_command(self.settings, self._contents), Identity.of_record(record).contents
        self._checkpoint = load_state(self.checkpoints)
        if self._checkpoint is None:  # nothing is trained yet
            return {**recorded, **own.contents}
        own = Identity(own.settings, {**own.contents, **recorded})
        check_checkpoint(self.path, self._checkpoint, own, "--overwrite starts over")
        return {**recorded, **Identity.of_record(self._checkpoint).contents}

    def _move_aside(self) -> None:
        lock = Lock(self.path)
        target = self.path.parent / REPLACED / f"{self.path.name[:LONGEST_MOVED]}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
        target.parent.mkdir(exist_ok=True)
        self.path.rename(target)
        lock.release()
        print(f"moved the old run to {target}")

    def write(self, **changes: Any) -> None:
        """Updates the record, its times and memory, and run.json. Raises RunFailed where the folder has gone."""
        self._require_in_place([self._lock.file])
        seconds = self._seconds_before + time.monotonic() - self._began
        memory = self._memory_before
        now = {kind: max(size, memory.get(kind, 0)) for kind, size in peak_memory(self.device).items()}
        self.record.update(seconds=seconds, peak_memory=memory | now, **changes)
        with replacing(self.path / RECORD, "x") as file:
            file.write(strict_json.dumps(self.record, indent=1) + "\n")

    def note_eager(self, why: str) -> None:
        """Says, and records, that the iterations are not captured any more."""
        print(f"note: {self.path}: iterations run eagerly, one kernel launched after the other: {why}", file=sys.stderr)
        self.write(captured=False, eager_because=why)

    def resume(self, loop: TrainingLoop) -> dict[str, Any]:
        """Brings the loop to the newest whole checkpoint, or leaves it at its start; returns the recorder's state ({}: start).

        Raises BadInput where checkpoints were written and are gone, or are not this run's.
        """
        state, self._checkpoint = self._checkpoint, None
        if state is None:
            if done := self.record.get("iterations_done"):
                there = f"{counted(done, 'iteration')} {'was' if done == 1 else 'were'} done"
                raise BadInput(f"{self.path} has no checkpoint, but {there}: put it back, or --overwrite to start over")
            return {}
        restore(loop, state, str(self.path))
        self.result = state["result"]
        self.write(epochs_done=len(state["recorder"]["test_acc"]), iterations_done=loop.iteration)
        print(f"{self.path}: resumed after {counted(loop.iteration, 'iteration')}")
        return state["recorder"]

    def save(self, loop: TrainingLoop, recorder: Recorder) -> None:
        """Writes a checkpoint of everything, then run.json.

        Raises RunFailed where a number of the state is not finite, and where run.lock or a log in the folder is no longer the
        file that this process holds open.
        """
        self._require_in_place([self._lock.file, *recorder.files])
        contents = Identity.of_record(self.record).contents
        state = {"settings": self.settings.as_dict(), **contents, "loop": loop.state_dict(), "recorder": recorder.state_dict()}
        if name := first_not_finite(state["loop"]):
            raise RunFailed(f"{name} is not finite after {counted(loop.iteration, 'iteration')}; {self.last_checkpoint()}")
        self.checkpoints.save({**state, "random": random_states(), "result": self.result})
        self.write(epochs_done=recorder.epoch, iterations_done=loop.iteration, seconds_per_epoch=recorder.seconds_per_epoch)

    def _require_in_place(self, files: Iterable[tuple[Path, int]]) -> None:
        """files: paths, and the descriptors that this process holds of them."""
        for path, descriptor in files:
            if not is_in_place(path, descriptor):
                raise RunFailed(f"{path} was deleted, moved or replaced while it was in use; {self.last_checkpoint()}")

    def last_checkpoint(self, bad: int | None = None) -> str:
        """The last good checkpoint in words. bad: the iterations after which the state was found to be of no use."""
        if "iterations_done" not in self.record:
            return "there is no checkpoint yet"
        if self.record["iterations_done"] == bad:
            previous = self.checkpoints.previous
            return f"{self.checkpoints.newest} has this state" + (f", {previous} an earlier one" if previous.exists() else "")
        after = f"{self.checkpoints.newest}, after {counted(self.record['iterations_done'], 'iteration')}"
        there = self.checkpoints.newest.exists()
        return (
            f"the last good checkpoint is {after}" if there else f"the last good checkpoint was {after}; it is not there any more"
        )

    def end_early(self, recorder: Recorder, why: str) -> None:
        """Says, and records, why the run ends before its last epoch."""
        print(f"{self.path}: ended after {recorder.epoch} of {counted(self.settings.epochs, 'epoch')}: {why}")
        self.write(ended_early=why)

    def give_way(self, loop: TrainingLoop, recorder: Recorder) -> None:
        """Saves and raises: Interrupted, once a signal has come; Finished, once --stop-after is reached."""
        if self._signals.noted is not None:
            self.save(loop, recorder)
            raise Interrupted(self._signals.noted, self.again())
        if self._is_over(loop):
            self.save(loop, recorder)
            done = f"{self.path} stopped after {counted(loop.iteration, 'iteration')}"
            raise Finished(f"{done}; rerun without --stop-after{' and --overwrite' if self._overwrite else ''} to continue")

    def again(self) -> str:
        """How to go on: --overwrite would move this run aside, too."""
        return "rerun the same command" + (" without --overwrite" if self._overwrite else "")

    def _is_over(self, loop: TrainingLoop) -> bool:
        planned = self.settings.epochs * self.record["iterations_per_epoch"]  # there it ends by itself
        return self.settings.stop_after is not None and self.settings.stop_after <= loop.iteration < planned

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
        self.result = {**evaluation._asdict(), "best_top1": recorder.get_best_test_acc(), **recorder.validation_result()}
        self.give_way(loop, recorder)
        last = recorder.stop or recorder.epoch == self.settings.epochs
        if last or (not self._in_iterations and recorder.epoch % self._every == 0):
            self.save(loop, recorder)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
