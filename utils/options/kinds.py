"""Kinds of values that a setting takes.

A kind reads a text (command line, --set, the strings of a manifest), checks a value that comes as such (Python, the numbers of a
manifest), and writes a value as a text that it reads. What it does not accept raises ValueError, which says what it accepts.
"""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from utils.choices import DATASETS, MODELS, TORCHVISION, is_net
from utils.errors import shortened
from utils.schedules import ADAPTIVE, COSINE, MOST_EPOCHS, Schedule

SMALLEST, LARGEST = 1e-38, 1e38  # of the positive numbers that a setting takes; float32 holds them
LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes, on the file systems of Linux and macOS


class Kind:
    """Base class: any text. stored: the types that its values have in a run's record."""

    accepts = "a text"
    limits = ""  # of its values, for the help
    stored: ClassVar[tuple[type, ...]] = (str,)

    def read(self, text: str) -> Any:
        """The value of a text."""
        try:
            return self._checked(self._parsed(text))
        except ValueError:
            raise self._refusal(text) from None

    def check(self, value: Any) -> Any:
        """The value in its own type, as `read` gives it."""
        try:
            return self._checked(value)
        except ValueError:
            raise self._refusal(value) from None

    def text(self, value: Any) -> str:
        """A text that `read` takes for the value."""
        return str(value)

    def _parsed(self, text: str) -> Any:
        return text

    def _checked(self, value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError
        return value

    def _refusal(self, value: Any) -> ValueError:
        return ValueError(f"must be {self.accepts}, not {shortened(repr(value))}")


@dataclass(frozen=True)
class Whole(Kind):
    """A whole number from low to high (None: without an end)."""

    low: int
    high: int | None = None
    stored = (int,)

    @property
    def accepts(self) -> str:
        return "a whole number " + (f"of at least {self.low}" if self.high is None else f"from {self.limits}")

    @property
    def limits(self) -> str:
        return "" if self.high is None else f"{self.low} to {self.high}"

    def _parsed(self, text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]+", text):
            raise ValueError
        return int(text)

    def _checked(self, value: Any) -> int:
        if type(value) is not int or value < self.low or (self.high is not None and value > self.high):
            raise ValueError
        return value


@dataclass(frozen=True)
class Real(Kind):
    """A number of at least 0, or above `above`, and at most `most`, that float32 holds too."""

    above: float | None = None
    most: float = LARGEST
    stored = (int, float)

    @property
    def limits(self) -> str:
        return "" if self.most == LARGEST else f"at most {self.most:g}"

    @property
    def accepts(self) -> str:
        low, zero = ("of at least 0", "0 or ") if self.above is None else (f"above {self.above:g}", "")
        return f"a number {low} and at most {self.most:g} ({zero}at least {SMALLEST:g}, which float32 can hold)".replace(
            "e+", "e"
        )

    def _parsed(self, text: str) -> float:
        if not text.isascii() or "_" in text:  # float takes digits of every script
            raise ValueError
        return float(text)

    def _checked(self, value: Any) -> float:
        if type(value) not in (int, float) or not 0 <= value <= self.most or 0 < value < SMALLEST:
            raise ValueError
        if self.above is not None and value <= self.above:
            raise ValueError
        return float(value)


@dataclass(frozen=True)
class OneOf(Kind):
    """One of some names. choices: the names, or a function that gives them: a registry may still grow."""

    choices: Iterable[str] | Callable[[], Iterable[str]]

    @property
    def names(self) -> list[str]:
        return list(self.choices() if callable(self.choices) else self.choices)

    @property
    def accepts(self) -> str:
        return f"one of {', '.join(self.names)}"

    def _checked(self, value: Any) -> str:
        if value not in self.names:
            raise ValueError
        return value


@dataclass(frozen=True)
class OneOfOrNone(Kind):
    """One of some names, or None, which is written as "none" or "None"."""

    names: tuple[str, ...]

    @property
    def accepts(self) -> str:
        return f"one of none, {', '.join(self.names)}"

    def text(self, value: str | None) -> str:
        return value or "none"

    def _parsed(self, text: str) -> str | None:
        return None if text.lower() == "none" else text

    def _checked(self, value: Any) -> str | None:
        if value not in (None, *self.names):
            raise ValueError
        return value


@dataclass(frozen=True)
class Pattern(Kind):
    """A text that a regular expression describes; a whole number counts as its text."""

    expression: str
    accepts: str

    def _checked(self, value: Any) -> str:
        text = str(value) if type(value) is int else value
        if not isinstance(text, str) or not re.fullmatch(self.expression, text):
            raise ValueError
        return text


class Switch(Kind):
    """On or off: a flag without a value, true or false elsewhere."""

    accepts = "true or false"
    stored = (bool,)

    def _parsed(self, text: str) -> bool:
        if text.lower() not in ("true", "false"):
            raise ValueError
        return text.lower() == "true"

    def _checked(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError
        return value


class LearningRateSchedule(Kind):
    """What utils.schedules.Schedule takes for `adjust`."""

    limits = f"1 to {MOST_EPOCHS}"
    accepts = f"a whole number of epochs from {limits}, several in ascending order such as 60,120,160, {COSINE!r} or {ADAPTIVE!r}"
    stored = (int, str)

    def _parsed(self, text: str) -> int | str:
        return int(text) if re.fullmatch(r"[0-9]+", text) else text

    def _checked(self, value: Any) -> int | str:
        return Schedule(value).adjust


class PathText(Kind):
    """A path, not empty; "~" at its beginning becomes the home folder."""

    accepts = f"a path of 1 to {LONGEST_PATH} bytes, and each name in it of at most {LONGEST_NAME}, in the locale's characters"

    def _checked(self, value: Any) -> str:
        path = os.path.expanduser(super()._checked(value))
        path.encode()  # TensorBoard and the report write it; raises ValueError for bytes that the locale's encoding lacks
        encoded = os.fsencode(path)
        if (
            not encoded
            or b"\0" in encoded
            or len(encoded) > LONGEST_PATH
            or any(len(name) > LONGEST_NAME for name in encoded.split(b"/"))
        ):
            raise ValueError
        return path


PATH = PathText()


class NetName(Kind):
    """A registered net or torchvision:NAME; whether torchvision has such a classifier is said where the net is made."""

    @property
    def limits(self) -> str:
        return f"{', '.join(MODELS)}, or {TORCHVISION}NAME for a classifier of torchvision.models"

    @property
    def accepts(self) -> str:
        return f"one of {self.limits}"

    def _checked(self, value: Any) -> str:
        if not is_net(value):
            raise ValueError
        return value


class DataSet(Kind):
    """A registered data set or NPZ:path, a path as PathText takes it."""

    @property
    def accepts(self) -> str:
        return f"one of {', '.join(sorted(DATASETS))} or NPZ:path"

    def _checked(self, value: Any) -> str:
        name = super()._checked(value)
        if name in DATASETS:
            return name
        kind, _, path = name.partition("NPZ:")
        if kind or not path:
            raise ValueError
        return f"NPZ:{PATH.check(path)}"

    def _refusal(self, value: Any) -> ValueError:
        is_path = isinstance(value, str) and value.startswith("NPZ:")
        return ValueError(f"must be {self.accepts}{', ' + PATH.accepts if is_path else ''}, not {shortened(repr(value))}")


DEVICE = Pattern(r"auto|cpu|cuda(:[0-9]{1,2})?", "auto, cpu, cuda or cuda:N with N from 0 to 99")
INTERVAL = Pattern(r"[1-9][0-9]{0,8}(it)?", "a number of epochs such as 1, or of iterations such as 100it, of at most 9 digits")
LAYER_PATTERN = Pattern(r"[!-~]{1,200}", "a pattern of layers' dotted names, of at most 200 ASCII characters without spaces")
FOLDER_PART = Pattern(r"[A-Za-z0-9][A-Za-z0-9._-]*", "letters, digits, '.', '_' and '-', not beginning with a sign")
