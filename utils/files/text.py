"""Values that come from elsewhere: texts (names, errors, file names) made printable; what counts as a text or number."""

import math
import reprlib
from typing import Any

_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother = 3, 80, 80
MAX_TEXT = 20_000  # characters of a text that is used as a value
MOST_PRINTED_BITS = 256  # of a whole number that is printed digit by digit; Python refuses to print very long ones


def printable(text: str) -> str:
    r"""The text with escapes (\x1b) in the place of characters that a terminal obeys or hides, and of lone surrogates.

    These are Unicode's control, format and unassigned characters and all separators but the space: a line stays one line.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: Any) -> str:
    """A value as an error message shows it: printable, long and deeply nested ones shortened."""
    if type(value) is int and value.bit_length() > MOST_PRINTED_BITS:
        return f"a number of {value.bit_length()} bits"
    return printable(_REPR.repr(value))


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 epoch", "1,437 epochs"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def is_text(value: Any) -> bool:
    """Whether a value is a text of a sensible length."""
    return isinstance(value, str) and len(value) <= MAX_TEXT


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, a whole one of at most 64 bits."""
    return (type(value) is int and abs(value) < 1 << 64) or (type(value) is float and math.isfinite(value))


def is_scalar(value: Any) -> bool:
    """Whether a value is a text, a number, true or false."""
    return isinstance(value, bool) or is_text(value) or is_number(value)
