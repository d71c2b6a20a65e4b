"""What layers.csv says of each quantized layer at the end of an epoch.

Weights are compared by their levels, a byte for each. A run keeps three vectors (N,) of them: before training, and at the ends of
the last two epochs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from meta_utils.helpers import learned_gradient
from meta_utils.training import TrainingLoop
from utils.layout import ONE_TENSOR, FlatLayout, Layout, nonzero
from utils.logs.layers_csv import LayerRow
from utils.quantizers.discretize import STE
from utils.quantizers.quantizer import Quantizer, evaluating, lets_estimators_in, ste_gradient

START, LAST, BEFORE_LAST = LEVELS = ("start", "last", "before_last")
SAMPLE = 1 << 16  # the largest number of a layer's W_tilde that a histogram is made of


class _WithoutRounding:
    """Stands in for a Discretize: x itself is the step's value, in the units of q."""

    def __call__(self, x: Tensor, q: Tensor, layout: Layout = ONE_TENSOR, unit: Tensor | None = None) -> Tensor:
        return x if unit is None else x / nonzero(unit)


def error(quantizer: Quantizer, W: Tensor, layout: Layout = ONE_TENSOR) -> Tensor:
    """x - W_hat, (N,), where x is W_hat without the rounding or sign in Q, so that it has its units.

    It is 2 W_tilde - 1 for dorefa, and W_tilde for BWN, BWN-F, ternary, TTQ and LSQ; also for a quantizer without the argument
    `discretize`.
    """
    W_tilde = quantizer.preprocess(W, layout)
    W_hat = quantizer.quantize(W_tilde, W, layout)
    x = quantizer.quantize(W_tilde, W, layout, _WithoutRounding()) if lets_estimators_in(quantizer) else W_tilde
    return x - W_hat


def levels_of(quantizer: Quantizer, W: Tensor, layout: Layout = ONE_TENSOR) -> Tensor:
    """Which discrete value each weight has, whatever the scale: bytes (N,). Those of quantizer.level, else the sign of W_hat."""
    W_tilde = quantizer.preprocess(W, layout)
    if hasattr(quantizer, "level"):
        return quantizer.level(W_tilde, layout).to(torch.uint8)
    return (quantizer.quantize(W_tilde, W, layout).sign() + 1).to(torch.uint8)


@torch.no_grad()
def first_levels(loop: TrainingLoop, is_epochs_end: bool) -> dict[str, Tensor]:
    """The levels of a loop of which none are known: before training, or of a run that was begun without them.

    is_epochs_end: whether the loop is at the end of an epoch (the start is one, too), whose levels W then has.
    """
    W, layout = loop.net.meta.weights(), loop.net.meta.layout
    with evaluating(loop.quantizer):
        levels = {LAST: levels_of(loop.quantizer, W, layout)} if is_epochs_end else {}
    return levels if loop.iteration else levels | {START: levels[LAST]}


@dataclass(frozen=True)
class LayerStatistics:
    """The statistics of an epoch's end, on the device until `read`.

    levels: of this epoch's end and those before, for the next one's. columns: of layers.csv -> a number for each layer, (L,), in
    float64. W_tilde: layer -> at most SAMPLE of its values, evenly spaced, flat: of the first, the middle and the last layer.
    """

    names: Sequence[str]
    weights: Sequence[int]
    levels: Mapping[str, Tensor]
    columns: Mapping[str, Tensor]
    W_tilde: Mapping[str, Tensor]

    def read(self, epoch: int) -> tuple[list[LayerRow], dict[str, np.ndarray]]:
        """The rows of layers.csv, and W_tilde by layer, in one transfer, which waits for the device. epoch: from 1."""
        parts = [*self.columns.values(), *self.W_tilde.values()]
        there = torch.cat([part.double() for part in parts]).cpu().numpy()
        columns = np.split(there, np.cumsum([len(part) for part in parts])[:-1])
        known = dict(zip(self.columns, columns, strict=False))
        found = {name: known.get(name, np.full(len(self.names), np.nan)) for name in LayerRow._fields[3:]}
        numbers = [[None if np.isnan(x) else float(x) for x in row] for row in zip(*found.values(), strict=True)]
        rows = [LayerRow(epoch, *each, *row) for *each, row in zip(self.names, self.weights, numbers, strict=True)]
        return rows, dict(zip(self.W_tilde, columns[len(known) :], strict=True))


@torch.no_grad()
def layer_statistics(loop: TrainingLoop, levels: Mapping[str, Tensor]) -> LayerStatistics:
    """The statistics of a loop at the end of an epoch; changes nothing, and does not wait for the device.

    levels: those that the epoch before left, or `first_levels`, as far as they are known.
    """
    with evaluating(loop.quantizer):
        return _statistics(loop, levels)


def _statistics(loop: TrainingLoop, levels: Mapping[str, Tensor]) -> LayerStatistics:
    meta = loop.net.meta
    W, layout = meta.weights(), meta.layout
    levels = {name: value.to(W.device) for name, value in levels.items()}
    now = levels_of(loop.quantizer, W, layout)
    columns = {"distance": _means(layout, error(loop.quantizer, W, layout).abs())}
    for name, before in (("flipped", LAST), ("flipped_since_start", START)):
        if before in levels:
            columns[name] = _means(layout, now != levels[before])
    if LAST in levels and BEFORE_LAST in levels:
        columns["oscillating"] = _means(layout, (now != levels[LAST]) & (now == levels[BEFORE_LAST]))
    columns |= _of_gradients(loop, W, layout)
    following = {START: levels.get(START), LAST: now, BEFORE_LAST: levels.get(LAST)}
    names = [layer.name or type(layer.module).__name__ for layer in meta.layers]
    shown = sorted({0, len(names) // 2, len(names) - 1})
    W_tilde = layout.parts(loop.quantizer.preprocess(W, layout))
    return LayerStatistics(
        names,
        layout.sizes,
        {name: value for name, value in following.items() if value is not None},
        columns,
        {names[i]: _sample(W_tilde[i]) for i in shown},
    )


def _of_gradients(loop: TrainingLoop, W: Tensor, layout: FlatLayout) -> dict[str, Tensor]:
    """The columns of g_W; none where the forward quantizes nothing (ProxQuant), so that there is no g_W_hat."""
    if "g_W_hat" not in loop.net.meta.shown:
        return {}
    g_W_hat = loop.net.meta.get("g_W_hat")
    if loop.learned:
        _, g_W = learned_gradient(loop.meta_net, loop.net, loop.quantizer, loop.meta_hidden_state_dict)
    else:
        g_W = ste_gradient(loop.training_quantizer, W, g_W_hat, layout)  # by its own estimator
    norm = _norms(layout, g_W)
    if _is_ste(loop):
        return {"norm": norm}
    ste = ste_gradient(loop.quantizer, W, g_W_hat, layout)
    products = [(g.double() * s.double()).sum() for g, s in zip(layout.parts(g_W), layout.parts(ste), strict=True)]
    return {"norm": norm, "cosine": torch.stack(products) / (norm * _norms(layout, ste))}  # 0 / 0: NaN


def _is_ste(loop: TrainingLoop) -> bool:
    """Whether the gradient is the quantizer's own, or passes by STE."""
    if loop.learned:
        return False
    return loop.training_quantizer is loop.quantizer or loop.training_quantizer.discretize.estimator == STE()


def _means(layout: FlatLayout, values: Tensor) -> Tensor:
    """The mean over each layer, (L,), in float64; values: (N,)."""
    return torch.stack([part.sum(dtype=torch.float64) / len(part) for part in layout.parts(values)])


def _norms(layout: FlatLayout, values: Tensor) -> Tensor:
    """The 2-norm of each layer's values, (L,), in float64."""
    return torch.stack([torch.linalg.vector_norm(part, dtype=torch.float64) for part in layout.parts(values)])


def _sample(values: Tensor) -> Tensor:
    return values[:: -(-len(values) // SAMPLE)]
