"""Which methods have an M, among them those that only another program knows."""

from collections.abc import Iterable, Mapping
from typing import Any

from utils.choices import META_NETWORKS, is_fixed
from utils.errors import shortened
from utils.files.text import printable
from utils.tables.cells import FULL_PRECISION

LONGEST_LIST = 300  # characters of the methods that a problem names


def is_learned(backward: str, settings: Mapping[str, Any]) -> bool:
    """Whether the gradient of a run is learned: an unknown method counts as learned if its record has meta_lr."""
    return backward in META_NETWORKS or (not is_known(backward) and settings.get("meta_lr") is not None)


def is_known(backward: str) -> bool:
    """Whether this program has the method: a meta network, a fixed estimator, a proximal step, or full precision."""
    return backward == FULL_PRECISION or backward in META_NETWORKS or is_fixed(backward)


def unknown_methods(backwards: Iterable[str]) -> list[str]:
    """A line that names the methods that this program does not know; none if it knows all of them."""
    unknown = sorted({printable(backward) for backward in backwards if not is_known(backward)})
    if not unknown:
        return []
    advice = "report with the program that trained them, which knows them; here each counts as learned if its record has meta_lr"
    return [f"unknown methods: {shortened(', '.join(unknown), LONGEST_LIST)}; {advice}"]
