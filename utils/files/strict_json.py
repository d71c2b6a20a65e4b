"""JSON as its standard has it, without Python's NaN and Infinity, which other readers refuse."""

import json
import math
from typing import Any


def dumps(value: Any, indent: int | None = None) -> str:
    """The value as JSON. A number that is not finite becomes its text: "nan", "inf" or "-inf"."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(member) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(member) for member in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
