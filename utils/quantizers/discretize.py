"""The step from x to its discrete value q inside a quantizer, and the gradient that passes it.

The straight-through estimator stands here, since every quantizer has it by default; the others are in meta_utils/estimators.py.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from utils.errors import BadPart
from utils.layout import ONE_TENSOR, Layout, nonzero


class Estimator:
    """How a gradient passes Q: g_x from g_q, where q = Q(x).

    x is what Q rounds or takes the sign of, centred (dorefa: 2 W_tilde - 1; BWN: W_tilde); q is its discrete value and g_q the
    gradient at q. All three have the same shape, dtype and device. progress is the part of training that is done, a 0-dim tensor
    in [0, 1] on that device, float32 or float64; NaN where it is not known how long training will be. Results have the shape and
    dtype of x. The arguments are not changed, but a result may be one of them, and must not be changed in place. No graph is
    meant to pass through: give detached tensors.
    """

    standardized = False  # whether x comes divided by its layer's standard deviation
    scheduled = False  # whether the estimator depends on progress
    relaxed = False  # whether the training forward computes with another value than q

    def __call__(self, g_q: Tensor, x: Tensor, q: Tensor, progress: Tensor) -> Tensor:
        """g_x, the gradient at x."""
        raise NotImplementedError(f"{type(self).__name__} does not define __call__()")

    def forward_value(self, x: Tensor, q: Tensor, progress: Tensor) -> Tensor:
        """What the training forward computes with in place of q. Evaluation always uses q."""
        return q


@dataclass(frozen=True)
class STE(Estimator):
    """g_x = g_q 1(|x| <= 1), the derivative of x clipped to [-1, 1]: the paper's baseline.

    Hubara, Courbariaux, Soudry, El-Yaniv, Bengio: Binarized Neural Networks, 2016.

    >>> x, progress = torch.tensor([-1.5, 0.5, 1.0]), torch.tensor(0.5)
    >>> STE()(torch.tensor([1.0, 2.0, 3.0]), x, x.sign(), progress)
    tensor([0., 2., 3.])
    """

    def __call__(self, g_q: Tensor, x: Tensor, q: Tensor, progress: Tensor) -> Tensor:
        above_1 = 1 + torch.finfo(x.dtype).eps  # hardtanh's derivative is 0 at its bounds, STE's 1 at |x| = 1
        return torch.ops.aten.hardtanh_backward(g_q, x, -above_1, above_1)


def estimated(estimator: Estimator, g_q: Tensor, x: Tensor, q: Tensor, progress: Tensor | None) -> Tensor:
    """An estimator's g_x. Raises BadPart where that is no tensor of x's shape."""
    g_x = estimator(g_q, x, q, progress)
    require_tensor(f"{type(estimator).__name__}.__call__", g_x, x, "x")
    return g_x


def require_tensor(name: str, returned: Any, like: Tensor, whose: str) -> None:
    """Raises BadPart, naming what returned it, for anything but a tensor of the shape and dtype of another one, `whose` name."""
    if not isinstance(returned, Tensor) or (returned.shape, returned.dtype) != (like.shape, like.dtype):
        got = f"{tuple(returned.shape)} {returned.dtype}" if isinstance(returned, Tensor) else type(returned).__name__
        raise BadPart(f"{name} must return a tensor of {whose}'s shape and dtype, {tuple(like.shape)} {like.dtype}, not {got}")


class _Step(torch.autograd.Function):
    """Value: `value`. Gradient for x: the estimator's of the incoming one, at x / deviation."""

    @staticmethod
    def forward(ctx, x: Tensor, value: Tensor, q: Tensor, deviation: Tensor | None, progress: Tensor | None, estimator) -> Tensor:
        ctx.save_for_backward(x, q, deviation, progress)
        ctx.estimator = estimator
        return value.view_as(value)

    @staticmethod
    def backward(ctx, g_q: Tensor) -> tuple[Tensor | None, ...]:
        x, q, deviation, progress = ctx.saved_tensors
        return estimated(ctx.estimator, g_q, x if deviation is None else x / deviation, q, progress), *[None] * 5


@dataclass(frozen=True)
class Discretize:
    """The step from x to its discrete value q, whose gradient an estimator gives. progress: as Estimator takes it."""

    estimator: Estimator = STE()
    progress: Tensor | None = None

    def __call__(self, x: Tensor, q: Tensor, layout: Layout = ONE_TENSOR, unit: Tensor | None = None) -> Tensor:
        """Value: q, or what the estimator's training forward has in its place, with its gradient for x; shapes equal.

        q: without a graph. unit: what 1 in q is in x, where that is not 1 (BWN: the scale); no graph.
        """
        at, value, deviation = x.detach(), q, None
        if self.estimator.relaxed:
            value = self.estimator.forward_value(at if unit is None else at / nonzero(unit), q, self.progress)
            require_tensor(f"{type(self.estimator).__name__}.forward_value", value, q, "q")
        if self.estimator.standardized:
            deviation = layout.deviation(at)
        return _Step.apply(x, value, q, deviation, self.progress, self.estimator)


BY_STE = Discretize()
