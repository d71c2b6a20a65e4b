"""Our values beside a published range, as text."""

import math
from collections.abc import Iterable, Sequence

CURVES = (("train_loss", "training loss", 3), ("train_acc", "training accuracy", 2), ("test_acc", "test accuracy", 2))
"""A trial's curves in the tables: attribute, name, digits."""


def range_text(values: Iterable[float], digits: int) -> str:
    """1.23, or 1.23 - 1.45 for several values; "" for none."""
    if not (values := list(values)):
        return ""
    low, high = min(values), max(values)
    return f"{low:.{digits}f}" if low == high else f"{low:.{digits}f} - {high:.{digits}f}"


def relative_excess(value: float, published: Sequence[float], digits: int) -> float:
    """How far a value lies outside a published range, relative to the nearer end; all are rounded to so many digits first.

    0 if it lies within the range, or if there is only one published value; infinite if the nearer end is 0.
    """
    if min(published) == max(published):
        return 0.0
    value, low, high = (round(number, digits) for number in (value, min(published), max(published)))
    outside, end = (low - value, low) if value < low else (value - high, high)
    if outside <= 0:
        return 0.0
    return outside / abs(end) if end else math.inf


def starred(values: Sequence[float], published: Sequence[float] | None, digits: int) -> str:
    """Our values, trial by trial, with a star at those that lie outside the published range."""
    stars = ["*" if published and relative_excess(value, published, digits) else "" for value in values]
    return ", ".join(f"{value:.{digits}f}{star}" for value, star in zip(values, stars, strict=True))
