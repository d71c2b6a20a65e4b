"""Records SIGINT and SIGTERM, so that a run can save its state and exit."""

import signal
from types import TracebackType


class Signals:
    """`with Signals() as signals`: `noted` is the last SIGINT or SIGTERM that came, None where none has."""

    noted: signal.Signals | None = None

    def __enter__(self) -> "Signals":
        self.noted = None
        self._handlers = {which: signal.signal(which, self._note) for which in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for which, handler in self._handlers.items():
            signal.signal(which, handler)

    def _note(self, number: int, frame: object) -> None:
        self.noted = signal.Signals(number)
