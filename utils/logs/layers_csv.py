"""layers.csv, a run's log with a row per epoch and quantized layer: its columns, its text, and means over groups of layers."""

import csv
import math
from collections.abc import Iterable, Sequence
from io import StringIO
from typing import NamedTuple

from utils.files.text import printable

SUMMARISED = ("flipped", "oscillating", "distance", "cosine")  # the columns whose means TensorBoard shows
ALL = "all"
MOST_GROUPS = 8


class LayerRow(NamedTuple):
    """A layer at the end of an epoch; None: not known, or there is no such number.

    W_hat = Q(A(W)) is the quantized weight that an evaluation computes with after the epoch. A weight flips where its discrete
    value differs: its sign, or -1, 0 or 1 (ternary, TTQ), or one of 2**k values (dorefa and LSQ at k bits). A change of a layer's
    scale is no flip.

    epoch: from 1. layer: its dotted name. weights: how many it has.
    flipped: the share of the weights whose discrete value differs from that at the end of the epoch before (epoch 1: before
    training).
    flipped_since_start: the share of those whose value differs from that before training.
    oscillating: the share of those that flipped back: flipped, and with the value that they had an epoch earlier still.
    distance: mean |x - W_hat|, where x is W_hat without the rounding or sign in Q: for dorefa 2 W_tilde - 1, for all others
    W_tilde.
    norm: |g_W|, the 2-norm of the gradient that the method makes of the epoch's last g_W_hat at the W that the epoch ends with,
    before weight decay, clipping and momentum.
    cosine: between that g_W and the one that STE makes of the same g_W_hat and W; None for STE itself, and where one is 0.
    """

    epoch: int
    layer: str
    weights: int
    flipped: float | None
    flipped_since_start: float | None
    oscillating: float | None
    distance: float | None
    norm: float | None
    cosine: float | None


HEADER = ",".join(LayerRow._fields) + "\n"


def csv_text(rows: Iterable[LayerRow]) -> str:
    """The rows' lines: numbers with 6 significant digits, an empty field for None."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for epoch, layer, weights, *numbers in rows:
        writer.writerow([epoch, printable(layer), weights, *("" if x is None else f"{x:.6g}" for x in numbers)])
    return text.getvalue()


def group_means(rows: Sequence[LayerRow]) -> dict[str, float]:
    """Means over groups of an epoch's layers, weighted by their numbers of weights, by the names layers/<column>/<group>.

    A group: all layers, and those whose names begin alike (up to the first dot) where these are at most MOST_GROUPS.
    """
    groups = {ALL: list(rows)}
    names = dict.fromkeys(row.layer.partition(".")[0] for row in rows)
    if 1 < len(names) <= MOST_GROUPS:
        groups |= {name: [row for row in rows if row.layer.partition(".")[0] == name] for name in names}
    means = {f"layers/{c}/{name}": _mean(members, c) for name, members in groups.items() for c in SUMMARISED}
    return {tag: mean for tag, mean in means.items() if not math.isnan(mean)}


def _mean(rows: Sequence[LayerRow], column: str) -> float:
    """NaN where no row has a number there."""
    known = [(getattr(row, column), row.weights) for row in rows if getattr(row, column) is not None]
    return math.fsum(x * weights for x, weights in known) / sum(weights for _, weights in known) if known else math.nan
