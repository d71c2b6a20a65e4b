"""Keeps a command running when standard output or error is closed, cannot encode a character, or loses its reader."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

STREAMS = ("stdin", "stdout", "stderr")


def prepare_streams() -> None:
    """Puts the null device where a standard stream is closed, so that a file opened later does not become standard output.

    Characters that a stream's encoding lacks are written as escapes.
    """
    for number in range(len(STREAMS)):
        try:
            os.fstat(number)
        except OSError:
            discard(number)
    for name in STREAMS:
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", errors="backslashreplace"))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def discard(number: int) -> None:
    """Leads what is written to a descriptor to the null device."""
    null = os.open(os.devnull, os.O_RDWR)
    if null == number:
        os.set_inheritable(null, True)
    else:
        os.dup2(null, number)
        os.close(null)


def flush_or_discard(stream: TextIO) -> None:
    """Writes what a stream still holds, or discards it where that fails."""
    try:
        stream.flush()
    except OSError:
        with suppress(OSError):
            discard(stream.fileno())


class _BestEffort:
    """A text stream that is written to as long as that works."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self._attempt(self.stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._attempt(self.stream.flush)

    def _attempt(self, work: Callable[..., Any], *arguments: str) -> None:
        """Where it fails, what the stream still holds, and all that follows, is discarded."""
        try:
            work(*arguments)
        except OSError:
            with suppress(OSError):
                discard(self.stream.fileno())


class BestEffortOutput:
    """`with BestEffortOutput():` what is printed may be lost (its reader has gone, its disk is full), the work goes on."""

    def __enter__(self) -> "BestEffortOutput":
        self._streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = (_BestEffort(stream) for stream in self._streams)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = self._streams
