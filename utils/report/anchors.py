"""What the page's tables link to: the keys of pictures, and the ids of pictures and of folds with settings."""

import hashlib
from collections.abc import Sequence

from utils.tables.cells import Cell

LEFT_OUT = "left_out"  # the kind of the pictures of runs that are in no mean


def picture_anchor(key: str) -> str:
    """The id that a picture has on the page."""
    return f"picture-{key}"


def curves_key(cell: Cell, published: bool) -> str:
    """The key of the picture with the curves of a cell's runs: those that stand beside printed numbers (`is_published`) share
    their block's, the others of a net share theirs.
    """
    return block_key(cell) if published else net_key("curves", cell)


def block_key(cell: Cell) -> str:
    """The key of the picture with the curves of a published cell's net, data set, quantizer and optimizer."""
    return f"curves_{'_'.join(cell.block)}"


def net_key(kind: str, cell: Cell) -> str:
    """The key of the first picture of a kind with runs of a cell's net and data set."""
    return f"{kind}-{_digest(cell[:2])}"


def settings_anchor(cell: Cell) -> str:
    """The id of the page's fold with the settings of a cell's runs."""
    return f"settings-{_digest(cell)}"


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256(repr(tuple(names)).encode()).hexdigest()[:12]
