"""What stops a command: each is printed as one line and has an exit code."""

import errno
import re
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils import PROJECT


class BadInput(Exception):
    """Raised for an invalid flag or file; printed as one line, exit code 2."""

    exit_code = 2


class BadPart(ValueError):
    """Raised where a quantizer, estimator, meta network or data set returns what it must not; one line, exit code 1."""

    exit_code = 1


class InUse(BadInput):
    """Raised where another process works on the run's folder; printed as one line, exit code 75 (EX_TEMPFAIL: try later)."""

    exit_code = 75


class RunFailed(Exception):
    """Raised where a run has begun and cannot go on; printed as one line, exit code 1."""

    exit_code = 1


class Finished(Exception):
    """Raised where there is nothing left to do; printed as one line, exit code 0."""


class Interrupted(Exception):
    """Raised after a signal that asks to end, once everything is saved; printed as one line, exit code 128 + its number."""

    def __init__(self, which: signal.Signals, how: str = "rerun the same command"):
        super().__init__(f"stopped by {which.name}; {how} to resume")
        self.exit_code = 128 + which


def shortened(text: str, limit: int = 200) -> str:
    """The text, without its middle where it has more than `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 2 :]}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def first_cause(error: BaseException) -> str:
    """The first error of the chain that led to this one, in a line, with the line of this project's code that it came from."""
    while error.__context__ is not None:
        error = error.__context__
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if PROJECT in Path(frame.filename).parents and "site-packages" not in frame.filename]
    where = [f" ({Path(frame.filename).name}:{frame.lineno})" for frame in (own or frames)[-1:]]
    return "".join([first_line(error), *where])


def reason(error: OSError | ValueError) -> str:
    """An error's message; that of one of the operating system without its number and path."""
    return getattr(error, "strerror", None) or str(error)


# The words of torch, C++ and the dynamic loader.
MEMORY = re.compile(r"(can't|cannot) allocate memory|out of memory|bad_alloc|failed to map segment", re.IGNORECASE)
WORKER = "DataLoader worker"
DETERMINISTIC = "does not have a deterministic implementation"
DISK = {errno.ENOSPC: "cannot write", errno.EDQUOT: "cannot write", errno.EIO: "cannot read or write"}


def machine_failure(error: BaseException | None) -> str | None:
    """That memory or disk did not suffice, a loader's worker was killed, or the device has no deterministic form of an operation,
    in a line; None for all other errors.
    """
    if isinstance(error, MemoryError) or (isinstance(error, (RuntimeError, ImportError, OSError)) and MEMORY.search(str(error))):
        return f"out of memory: {first_line(error)}"
    if isinstance(error, RuntimeError) and WORKER in str(error):
        return f"a worker of the loader was lost: {first_line(error)}"
    if isinstance(error, RuntimeError) and DETERMINISTIC in str(error):
        return f"--deterministic is not possible on this device: {first_line(error)}"
    if isinstance(error, OSError) and error.errno in DISK:
        where = f": {error.filename}" if error.filename else ""
        return f"{DISK[error.errno]}: {error.strerror}{where}"
    return None


@contextmanager
def failures_of(what: str) -> Iterator[None]:
    """For a call of what may be the user's own: its exceptions, apart from a machine's failure, become BadInput, in one line."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        if machine_failure(error):
            raise
        raise BadInput(f"{what} ({type(error).__name__}: {first_line(error)})") from error
