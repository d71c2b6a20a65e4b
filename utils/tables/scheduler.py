"""Carries a table's runs out with an engine: what is done is skipped, what was cut off is resumed, a failure stops nothing.

Written by hand: submitit knows Slurm only, and neither retries a killed run nor respects another process's lock.
"""

import re
import sys
import time
from collections import Counter, deque

from tqdm import tqdm

from utils.errors import Interrupted, InUse, reason
from utils.files.text import counted, printable
from utils.files.untrusted import read_tail
from utils.logs.progress import duration, is_terminal
from utils.run.folder.signals import STOPPING, Signals
from utils.tables.engines import OUTPUT, Ended, Engine, make_engine
from utils.tables.options import EngineOptions
from utils.tables.selection import State, TableRun, fetch_data, without_base_model

TICK = 0.2  # seconds between looks at the engine
LOOK_EVERY = 3.0  # seconds between looks at the runs' folders
TAIL = 1 << 16  # bytes of an output.log in which its last line is looked for
STOPPED_BY_SIGNAL = tuple(128 + which for which in STOPPING)


def carry_out(runs: list[TableRun], options: EngineOptions) -> dict[TableRun, str]:
    """Carries out what is not done of some runs; prints and returns those that failed, and why.

    Raises BadInput where nothing can be begun: no run has its base model, or the data are not available.
    """
    to_do = [run for run in runs if run.state()[0] is not State.DONE]
    failures = without_base_model(to_do)
    for run, why in failures.items():
        print(printable(f"failed: {run}: {why}"))
    fetch_data(run for run in to_do if run not in failures)
    runnable = [run for run in runs if run not in failures]
    return failures | Scheduler(runnable, make_engine(options, runnable), options.retries).carry_out()


class Scheduler:
    """The runs that wait, are being worked on (here or by another process), and have failed.

    retries: how often a run whose process was killed is started again.
    """

    def __init__(self, runs: list[TableRun], engine: Engine, retries: int):
        self.failures: dict[TableRun, str] = {}
        self._engine, self._retries = engine, retries
        self._waiting, self._elsewhere = deque(runs), []
        self._kills: Counter[TableRun] = Counter()
        self._progress = Progress(runs)
        self._looked, self._announced = 0.0, False

    def carry_out(self) -> dict[TableRun, str]:
        """Works until no run is left; returns those that failed, and why. Raises Interrupted after a signal, when every run that
        was active has saved its state and ended.
        """
        with Signals() as signals:
            try:
                while self._waiting or self._elsewhere or self._engine.active:
                    if signals.noted is not None:
                        raise Interrupted(signals.noted)
                    self._step()
                    time.sleep(TICK)
            finally:
                self._engine.close()
                self._progress.close()
        return self.failures

    def _step(self) -> None:
        while self._waiting and self._engine.has_room:
            self._begin(self._waiting.popleft())
        for end in self._engine.ended():
            self._conclude(end)
        if time.monotonic() - self._looked > LOOK_EVERY:
            self._look()

    def _begin(self, run: TableRun) -> None:
        state, why = run.state()
        if state is State.DONE:
            self._progress.conclude(run, "done before")
        elif state is State.RUNNING:
            self._elsewhere.append(run)
        elif state is State.REFUSED:
            self._fail(run, why)
        else:
            try:
                self._engine.start(run)
            except OSError as error:
                self._fail(run, str(error))

    def _conclude(self, end: Ended) -> None:
        run, code = end.run, end.code
        killed = code < 0 or code in STOPPED_BY_SIGNAL
        if code == 0:
            self._progress.conclude(run, run.state()[0])  # with --set stop-after it is not done
        elif code == InUse.exit_code:
            self._elsewhere.append(run)
        elif killed and self._kills[run] < self._retries:
            self._kills[run] += 1
            self._progress.say(f"again: {run}: its process was killed ({code})")
            self._waiting.appendleft(run)
        else:
            self._fail(run, end.note or (f"its process was killed ({code})" if killed else last_line(run)))

    def _fail(self, run: TableRun, why: str) -> None:
        self.failures[run] = why
        self._progress.conclude(run, "failed", why)

    def _look(self) -> None:
        """Takes up the runs that another process has ended or left, and moves the bar."""
        still = [run for run in self._elsewhere if run.state()[0] is State.RUNNING]
        self._waiting += [run for run in self._elsewhere if run not in still]
        self._elsewhere = still
        if still and not self._announced and not self._waiting and not self._engine.active:
            self._announced = True
            self._progress.say(f"waiting for what other processes work on: {', '.join(map(str, still))}")
        self._progress.refresh()
        self._looked = time.monotonic()


class Progress:
    """A bar over the epochs of all runs with the time left, on a terminal; and a line on standard output for each run's end."""

    def __init__(self, runs: list[TableRun]):
        self._runs, self._ended = runs, 0
        (self._before, total), self._began = self._epochs(), time.monotonic()
        self._bar = tqdm(total=total, initial=self._before, unit="epoch", disable=not is_terminal(sys.stderr), dynamic_ncols=True)

    def _epochs(self) -> tuple[int, int]:
        """Epochs that are done, and epochs in all."""
        done, planned = zip(*(run.epochs() for run in self._runs), strict=True) if self._runs else ((), ())
        return sum(done), sum(planned)

    def refresh(self) -> None:
        """Reads how far the runs are."""
        self._bar.n, self._bar.total = self._epochs()
        self._bar.refresh()

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        tqdm.write(printable(line), file=sys.stdout)
        sys.stdout.flush()

    def conclude(self, run: TableRun, outcome: str, why: str = "") -> None:
        """Says that a run has ended, and why it failed; how many have ended, and how long the rest takes at the pace so far."""
        self._ended += 1
        done, total = self._epochs()
        left = ""
        if self._before < done < total:
            seconds = (time.monotonic() - self._began) / (done - self._before) * (total - done)
            left = f", {duration(seconds)} left"
        self.say(f"{outcome}: {run}{f': {why}' if why else ''} ({self._ended} of {counted(len(self._runs), 'run')}{left})")

    def close(self) -> None:
        self.refresh()
        self._bar.close()


def last_line(run: TableRun) -> str:
    """The last thing that a run's process printed."""
    path = run.path / OUTPUT
    try:
        lines = re.split(r"[\r\n]", read_tail(path, TAIL).decode(errors="replace"))
    except FileNotFoundError:
        lines = []
    except OSError as error:
        return f"{path} cannot be read: {reason(error)}"
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output") + f" ({path})"
