"""Checks of values that come from elsewhere, in a record, a checkpoint or an exported file. Imports no torch."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from utils.files.text import MAX_TEXT, is_number, is_scalar, is_text

MAX_NAME = 100  # characters


class Check(NamedTuple):
    """What a value must be, in words, and whether one is that. may_lack: whether the object that holds it may lack it."""

    accepts: str
    holds: Callable[[Any], bool]
    may_lack: bool = False


def is_name(value: Any, longest: int = MAX_NAME) -> bool:
    """Whether a value can be the name of a net, method or state: so many printable characters, at least one."""
    return isinstance(value, str) and 0 < len(value) <= longest and value.isprintable()


def is_whole(value: Any, low: int = 0) -> bool:
    """Whether a value is a whole number of at least `low` and at most 63 bits."""
    return type(value) is int and low <= value < 1 << 63


NAME = Check(f"a name of at most {MAX_NAME} printable characters", is_name)
TEXT = Check(f"a text of at most {MAX_TEXT} characters", is_text)
ANY_TEXT = Check("a text", lambda value: isinstance(value, str))
FINITE = Check("a finite number", is_number)
NUMBER = Check("a number", lambda value: type(value) in (int, float))
WHOLE = Check("a whole number of at least 0", is_whole)
POSITIVE = Check("a whole number of at least 1", lambda value: is_whole(value, 1))
SWITCH = Check("true or false", lambda value: isinstance(value, bool))
ANYTHING = Check("anything", lambda value: True)
VALUE = Check(
    "a text, a number, true or false, or a list of them", lambda v: all(map(is_scalar, v if isinstance(v, list) else [v]))
)


def or_none(check: Check) -> Check:
    """What the check accepts, or None."""
    return Check(f"{check.accepts}, or null", lambda value: value is None or check.holds(value))


def list_of(check: Check) -> Check:
    """A list of any length, each member of which the check accepts."""
    return Check(f"a list, each of {check.accepts}", lambda value: isinstance(value, list) and all(map(check.holds, value)))


def each(check: Check) -> Check:
    """An object (texts -> values), each value of which the check accepts."""

    def holds(value: Any) -> bool:
        return isinstance(value, dict) and all(isinstance(name, str) and check.holds(entry) for name, entry in value.items())

    return Check(f"an object, each of {check.accepts}", holds)


def object_of(entries: Mapping[str, Check], exact: bool = False) -> Check:
    """An object whose entries of these names their checks accept. exact: it has all of them and no other."""

    def holds(value: Any) -> bool:
        if not isinstance(value, dict) or (exact and value.keys() != entries.keys()):
            return False
        return all(check.holds(value[name]) for name, check in entries.items() if name in value)

    listed = ", ".join(f"{name}: {check.accepts}" for name, check in entries.items())
    return Check(f"an object {'of' if exact else 'with'} {listed}", holds)
