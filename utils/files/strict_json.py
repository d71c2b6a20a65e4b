"""JSON as its standard has it, without Python's NaN and Infinity, which other readers refuse."""

import json
import math
from collections.abc import Callable
from typing import Any


def dumps(value: Any, indent: int | None = None) -> str:
    """The value as JSON. A number that is not finite becomes its text: "nan", "inf" or "-inf"."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def refuse(constant: str) -> Any:
    """Raises ValueError for NaN, Infinity or -Infinity."""
    raise ValueError(f"{constant} is no number of JSON")


def loads(text: str, constant: Callable[[str], Any] = refuse) -> Any:
    """The value of a JSON text. Raises ValueError for what is no JSON, is nested too deep, or names a member twice.

    constant: makes the value of NaN, Infinity and -Infinity; float for files of earlier versions, which may hold them.
    """
    try:
        return json.loads(text, parse_constant=constant, object_pairs_hook=_members)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("an object names a member twice")
    return members


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(member) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(member) for member in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
