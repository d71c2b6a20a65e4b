"""How far a run is: the time left, and what a stream can show of it. Nothing here has colours or escape sequences."""

import os
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple, TextIO

from tqdm import tqdm

RECENT = 3  # epochs whose median stands for those to come: the median ignores a single slow epoch
USUAL_COLUMNS = 80


class TimeLeft(NamedTuple):
    """Seconds until the epoch ends, and until the run does; None where it is not known how many epochs the run has."""

    epoch: float
    run: float | None


def seconds_per_epoch(seconds: Sequence[float]) -> float | None:
    """The time that an epoch takes, of the epochs that are done; None before the first one's end."""
    return median(seconds[-RECENT:]) if seconds else None


def time_left(done: int, total: int, elapsed: float, seconds: Sequence[float], epochs: int | None) -> TimeLeft:
    """The time left in an epoch of which `done` of `total` iterations are done after `elapsed` seconds.

    seconds: of each epoch before it, test included; elapsed counts likewise, also where the epoch was resumed in its middle.
    epochs: that the run has. In the first epoch, whose test has no time yet, the pace of its iterations is all that is known.
    done 0: only the times of earlier epochs count.
    """
    pace = elapsed / done if done else 0.0
    usual = seconds_per_epoch(seconds)
    rest = pace * (total - done)
    epoch = rest if usual is None else max(rest, usual - elapsed)
    later = 0 if epochs is None else max(0, epochs - len(seconds) - 1)
    return TimeLeft(epoch, None if epochs is None else epoch + later * (pace * total if usual is None else usual))


def duration(seconds: float) -> str:
    """Seconds as "01:30" or "2:05:00"."""
    return tqdm.format_interval(seconds)


def is_terminal(file: TextIO) -> bool:
    """Whether a line can be redrawn in place: a terminal that obeys a carriage return, which TERM=dumb does not."""
    return file.isatty() and os.environ.get("TERM") != "dumb"


def line_width(file: TextIO) -> int:
    """The characters that a terminal's line takes before the cursor wraps."""
    try:
        return (os.get_terminal_size(file.fileno()).columns or USUAL_COLUMNS) - 1
    except (OSError, ValueError):  # a stream without a descriptor
        return USUAL_COLUMNS - 1
