"""What a quantizer is, and what quantizers share.

A quantizer takes W to W_tilde = A(W) and W_tilde to W_hat = Q(W_tilde). Autograd passes the step in Q (round or sign) by a
gradient estimator (discretize.py), STE where no other is given; the constants around it multiply.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from inspect import signature
from typing import Protocol

import torch
from torch import Tensor, nn

from utils.choices import MAX_BITS
from utils.layout import ONE_TENSOR, Layout
from utils.miscellaneous import in_mode
from utils.quantizers.discretize import BY_STE, Discretize, Estimator, estimated

METHODS = ("preprocess", "quantize", "calibration")  # of a quantizer


class Quantizer(Protocol):
    """What a net asks of a quantizer. Every tensor has the shape of W; `layout` gives statistics per weight (utils/layout.py):
    W is one tensor by itself, or all layers' weights as one flat vector.
    """

    bits: int

    def preprocess(self, W: Tensor, layout: Layout = ONE_TENSOR) -> Tensor:
        """A: W -> W_tilde; keeps the graph to W."""

    def quantize(
        self, W_tilde: Tensor, W: Tensor | None = None, layout: Layout = ONE_TENSOR, discretize: Discretize = BY_STE
    ) -> Tensor:
        """Q: W_tilde -> W_hat. W: the stored weight, for a scale taken from it. discretize: makes the step from x to q.

        One with other values than a negative, a positive and 0 also has a method level(W_tilde, layout): which of them each
        weight has, as whole numbers from 0 to 255, by which layers.csv compares weights.
        """

    def calibration(self, W: Tensor, layout: Layout = ONE_TENSOR) -> Tensor:
        """c of g_W = c g_W_tilde, Eq. (4): dW_tilde/dW (dorefa: twice that, as the published runs had it); no graph."""


@dataclass(frozen=True)
class EstimatedQuantizer:
    """A quantizer whose step has the gradient of `discretize`: what a training forward with a fixed estimator computes with."""

    quantizer: Quantizer
    discretize: Discretize

    def preprocess(self, W: Tensor, layout: Layout = ONE_TENSOR) -> Tensor:
        """The quantizer's A."""
        return self.quantizer.preprocess(W, layout)

    def quantize(self, W_tilde: Tensor, W: Tensor | None = None, layout: Layout = ONE_TENSOR) -> Tensor:
        """The quantizer's Q."""
        return self.quantizer.quantize(W_tilde, W, layout, self.discretize)


class Unprocessed:
    """What most quantizers have in common: W_tilde = W, and so the calibration is 1."""

    def preprocess(self, W: Tensor, layout: Layout = ONE_TENSOR) -> Tensor:
        """W_tilde = W."""
        return W

    def calibration(self, W: Tensor, layout: Layout = ONE_TENSOR) -> Tensor:
        """1."""
        return torch.ones_like(W)


def sign(x: Tensor) -> Tensor:
    """-1 or +1; sign(0) = +1, so that a 1-bit layer has two values. NaN stays NaN."""
    return torch.where(x >= 0, 1.0, x.clamp(-1, -1))


def require_bits(name: str, bits: int) -> None:
    """Raises ValueError, naming the quantizer, unless bits is a whole number from 1 to 8."""
    if type(bits) is not int or not 1 <= bits <= MAX_BITS:
        raise ValueError(f"{name} takes 1 to {MAX_BITS} bits, not {bits!r}")


def require_two_bits(name: str, bits: int) -> None:
    """Raises ValueError, naming the quantizer, unless bits is 2."""
    if bits != 2:
        raise ValueError(f"{name} takes 2 bits, for its three values, not {bits!r}")


def require_start(quantizer: Quantizer) -> None:
    """Raises ValueError for a quantizer that is a module and has no `start`."""
    if isinstance(quantizer, nn.Module) and not hasattr(quantizer, "start"):
        raise ValueError(f"{type(quantizer).__name__} is a module and has no start(W, layout), which makes its parameters")


def with_estimator(quantizer: Quantizer | None, estimator: Estimator, progress: Tensor) -> EstimatedQuantizer:
    """The quantizer with an estimator's gradient.

    Raises ValueError where there is no quantizer, or it lets no estimator in, or the estimator has no __call__ or returns another
    shape than x's.
    """
    if quantizer is None:
        raise ValueError("an estimator needs a quantizer")
    if type(estimator).__call__ is Estimator.__call__:
        raise ValueError(f"{type(estimator).__name__} does not define __call__(g_q, x, q, progress)")
    x = progress.new_tensor([-0.5, 0.5])
    estimated(estimator, torch.ones_like(x), x, x.sign(), progress)
    if not lets_estimators_in(quantizer):
        raise ValueError(f"{type(quantizer).__name__}.quantize has no argument discretize: it takes no estimator but its own")
    return EstimatedQuantizer(quantizer, Discretize(estimator, progress))


def lets_estimators_in(quantizer: Quantizer) -> bool:
    """Whether the step of the quantizer is a Discretize that it is given."""
    return "discretize" in signature(quantizer.quantize).parameters


def quantized(quantizer: Quantizer, W: Tensor, layout: Layout = ONE_TENSOR) -> Tensor:
    """W_hat = Q(A(W)); keeps the graph to W."""
    return quantizer.quantize(quantizer.preprocess(W, layout), W, layout)


def without_estimator(quantizer: Quantizer) -> Quantizer:
    """The quantizer itself, of one that has an estimator's gradient."""
    return quantizer.quantizer if isinstance(quantizer, EstimatedQuantizer) else quantizer


@contextmanager
def evaluating(quantizer: Quantizer) -> Iterator[None]:
    """A quantizer that is a module is in eval mode, so that what it is asked for changes none of its buffers."""
    own = without_estimator(quantizer)
    with in_mode(own, training=False) if isinstance(own, nn.Module) else nullcontext():
        yield


def ste_gradient(quantizer: Quantizer, W: Tensor, g_W_hat: Tensor, layout: Layout = ONE_TENSOR) -> Tensor:
    """g_W as the clipped STE makes it of g_W_hat, by autograd through Q(A(W)); shapes equal, no graph.

    Of an EstimatedQuantizer: as its estimator makes it.
    """
    W = W.detach().requires_grad_()
    with torch.enable_grad():
        W_hat = quantized(quantizer, W, layout)
    return torch.autograd.grad(W_hat, W, g_W_hat.clone())[0]  # an estimator may change it in place
