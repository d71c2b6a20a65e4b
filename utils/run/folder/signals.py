"""Records the signals that ask a process to end, so that a run can save its state and exit."""

import signal
from types import TracebackType

INTERRUPTING = (signal.SIGINT, signal.SIGTERM)
UNLESS_IGNORED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)  # such as SIGHUP by nohup: it stays ignored
STOPPING = (*INTERRUPTING, *UNLESS_IGNORED)


class Signals:
    """`with Signals() as signals`: `noted` is the last of STOPPING that came, None where none has."""

    noted: signal.Signals | None = None

    def __enter__(self) -> "Signals":
        self.noted = None
        heeded = [which for which in STOPPING if which in INTERRUPTING or signal.getsignal(which) is not signal.SIG_IGN]
        self._handlers = {which: signal.signal(which, self._note) for which in heeded}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for which, handler in self._handlers.items():
            signal.signal(which, handler)

    def _note(self, number: int, frame: object) -> None:
        self.noted = signal.Signals(number)
