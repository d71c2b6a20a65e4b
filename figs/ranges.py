"""Our values beside a published range, in words."""

from collections.abc import Iterable, Sequence

CURVES = (("train_loss", "training loss", 3), ("train_acc", "training accuracy", 2), ("test_acc", "test accuracy", 2))
"""A trial's curves in the tables: attribute, in words, digits."""


def span(values: Iterable[float], digits: int) -> str:
    """1.23, or 1.23 - 1.45 for several; "" for none."""
    if not (values := list(values)):
        return ""
    low, high = min(values), max(values)
    return f"{low:.{digits}f}" if low == high else f"{low:.{digits}f} - {high:.{digits}f}"


def beyond(value: float, band: Sequence[float], digits: int) -> float:
    """How far a value lies outside a published range, as a share of its nearer end, all to so many digits; 0 within.

    One published trial makes no range: 0.
    """
    if min(band) == max(band):
        return 0.0
    value, low, high = (round(number, digits) for number in (value, min(band), max(band)))
    return max(low / value if value < low else value / high, 1.0) - 1.0


def marked(values: Sequence[float], band: Sequence[float] | None, digits: int) -> str:
    """Ours, trial by trial, with a star at what lies outside the published range."""
    stars = ["*" if band and beyond(value, band, digits) else "" for value in values]
    return ", ".join(f"{value:.{digits}f}{star}" for value, star in zip(values, stars, strict=True))
