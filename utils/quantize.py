"""The paper's quantizers and ternary weights as small frozen values, quantizers by name, and the evaluation of a quantized net.

Adding a quantizer is one class with the methods of `Quantizer` (quantizers/quantizer.py) and one line in utils/choices.py.
Those with parameters of their own are in quantizers/trained.py.
"""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.choices import QUANTIZERS, usual_bits
from utils.files.text import counted
from utils.layout import ONE_TENSOR, Layout, nonzero
from utils.miscellaneous import hits, in_mode
from utils.quantizers.discretize import BY_STE, Discretize
from utils.quantizers.quantizer import (
    METHODS,
    Quantizer,
    Unprocessed,
    quantized,
    require_bits,
    require_start,
    require_two_bits,
    sign,
)


def _round_half_up(x: Tensor) -> Tensor:
    """The nearest integer, halves upwards (torch.round takes halves to even, which would make sign(0) = -1 at 1 bit)."""
    nearest = torch.round(x)
    return nearest.add_(x - nearest == 0.5)


@dataclass(frozen=True)
class DoReFa:
    """W -> W_tilde in [0, 1] -> W_hat in [-1, 1] with 2**bits values; any shape, one scale per tensor. Eq. (1).

    >>> W = torch.tensor([-0.3, 0.1, 0.6])
    >>> DoReFa(bits=1).quantize(DoReFa(bits=1).preprocess(W))
    tensor([-1.,  1.,  1.])

    Raises ValueError unless bits is an integer from 1 to 8.
    """

    bits: int = 1

    def __post_init__(self):
        require_bits("dorefa", self.bits)

    def preprocess(self, W: Tensor, layout: Layout = ONE_TENSOR) -> Tensor:
        """W_tilde = tanh(W) / (2 max|tanh(W)|) + 1/2, in [0, 1]; the max is a constant for autograd, and 1 where it is zero."""
        tanh = torch.tanh(W)
        largest = nonzero(layout.largest(tanh.detach()))
        return tanh.div(layout.spread(2 * largest)).add_(0.5)

    def quantize(
        self, W_tilde: Tensor, W: Tensor | None = None, layout: Layout = ONE_TENSOR, discretize: Discretize = BY_STE
    ) -> Tensor:
        """W_hat = 2 round((2**bits - 1) W_tilde) / (2**bits - 1) - 1, the step from x = 2 W_tilde - 1; at 1 bit sign(x)."""
        x = torch.add(W_tilde.new_full((), -1.0), W_tilde, alpha=2)
        q = sign(x.detach()) if self.bits == 1 else self.level(W_tilde).div_(2**self.bits - 1).mul_(2).sub_(1)
        return discretize(x, q, layout)

    def level(self, W_tilde: Tensor, layout: Layout = ONE_TENSOR) -> Tensor:
        """round((2**bits - 1) W_tilde): which value each weight has, from 0 to 2**bits - 1, in W_tilde's dtype; no graph."""
        return _round_half_up((2**self.bits - 1) * W_tilde.detach())

    def calibration(self, W: Tensor, layout: Layout = ONE_TENSOR) -> Tensor:
        """(1 - tanh(W)**2) / max|tanh(W)|, Eq. (4): twice dW_tilde/dW, because it takes in the factor 2 of Q.

        With s = sigmoid(2 W), 1 - tanh(W)**2 = 4 s (1 - s), which takes half of the time; max|tanh(W)| = tanh(max|W|).
        """
        s = torch.mul(W.detach(), 2).sigmoid_()
        largest = nonzero(torch.tanh(layout.largest(W.detach())))
        factor = (4 / largest).clamp(max=torch.finfo(W.dtype).max)  # infinite at the smallest number
        return torch.ops.aten.sigmoid_backward(layout.spread(factor), s)


@dataclass(frozen=True)
class BWN(Unprocessed):
    """W_tilde = W; W_hat = mean|W_tilde| sign(W_tilde), two values per tensor; any shape. Eq. (2).

    >>> BWN().quantize(torch.tensor([-0.5, 1.0]))
    tensor([-0.7500,  0.7500])

    Raises ValueError unless bits is 1.
    """

    bits: int = 1

    def __post_init__(self):
        if self.bits != 1:
            raise ValueError(f"{type(self).__name__} takes 1 bit, not {self.bits!r}")

    def _scale(self, W_tilde: Tensor, W: Tensor, layout: Layout) -> Tensor:
        return layout.abs_mean(W_tilde)

    def quantize(
        self, W_tilde: Tensor, W: Tensor | None = None, layout: Layout = ONE_TENSOR, discretize: Discretize = BY_STE
    ) -> Tensor:
        """W_hat = scale * sign(W_tilde), the step from x = W_tilde; the scale is a constant for autograd and multiplies."""
        values = W_tilde.detach()
        scale = self._scale(values, values if W is None else W.detach(), layout)
        return scale * discretize(W_tilde, sign(values), layout, unit=scale)


@dataclass(frozen=True)
class BWNF(BWN):
    """BWN with one scale per output filter of a convolution, mean|W| of the stored weight. Linear layers compute as BWN does.

    The weight of a convolution has shape (C_out, C_in, k, k), of a linear layer (C_out, C_in). Where the stored weight is not
    given, W_tilde stands in.

    >>> W, W_tilde = torch.tensor([[1.0, -2.0]]), torch.tensor([[2.0, -4.0]])
    >>> BWNF().quantize(W_tilde, W)
    tensor([[ 3., -3.]])
    >>> BWNF().quantize(W_tilde[..., None, None], W[..., None, None]).flatten()
    tensor([ 1.5000, -1.5000])
    """

    def _scale(self, W_tilde: Tensor, W: Tensor, layout: Layout) -> Tensor:
        return layout.abs_mean_per_filter(layout.convolutions_from(W, others=W_tilde))


@dataclass(frozen=True)
class Ternary(Unprocessed):
    """W_tilde = W; W_hat = s q, q = round(W_tilde / s) limited to -1, 0, 1, where s = mean|W_tilde| of the tensor; any shape.

    >>> Ternary().quantize(torch.tensor([-0.5, 0.25, 0.75, 1.5]))
    tensor([-0.7500,  0.0000,  0.7500,  0.7500])

    Raises ValueError unless bits is 2, which is what three values take.
    """

    bits: int = 2

    def __post_init__(self):
        require_two_bits("ternary", self.bits)

    def quantize(
        self, W_tilde: Tensor, W: Tensor | None = None, layout: Layout = ONE_TENSOR, discretize: Discretize = BY_STE
    ) -> Tensor:
        """W_hat = s q, the step from x = W_tilde to s q: no factor stands before the estimator's gradient; no graph to s."""
        values = W_tilde.detach()
        s = layout.abs_mean(values)
        q = torch.round(values / nonzero(s)).clamp(-1, 1) + 0.0  # -0 becomes 0
        return discretize(W_tilde, s * q, layout)


def get_quantizer(quantized_type: str | Quantizer | None, bits: int | None = None) -> Quantizer | None:
    """A registered name at `bits` bits (None: the quantizer's own number) as a quantizer; a quantizer or None as it is.

    Raises ValueError for a class, for an unknown name, naming the known ones, for bits that the quantizer does not take, and for
    a class that lacks a method of `Quantizer`, is a module without `start`, or has the same values at other bits than its own
    number.
    """
    if isinstance(quantized_type, type):
        raise ValueError(f"the quantizer {quantized_type.__name__} is a class: {quantized_type.__name__}() makes one of it")
    if not isinstance(quantized_type, str):
        return quantized_type
    if quantized_type not in QUANTIZERS:
        raise ValueError(f"unknown quantizer {quantized_type!r}: choose from {', '.join(sorted(QUANTIZERS))}")
    usual = usual_bits(quantized_type)
    quantizer = _made(quantized_type, usual if bits is None else bits)
    if missing := [name for name in METHODS if not callable(getattr(quantizer, name, None))]:
        raise ValueError(f"the quantizer {quantized_type} has no method {missing[0]}")
    require_start(quantizer)
    if bits not in (None, usual) and torch.equal(_values(quantizer), _values(_made(quantized_type, usual))):
        raise ValueError(f"{quantized_type} gives the same W^ as with {counted(usual, 'bit')}: it takes no other number of bits")
    return quantizer


def _made(name: str, bits: int) -> Quantizer:
    try:
        return QUANTIZERS.load(name)(bits)
    except TypeError as error:  # a class of the user's own whose constructor takes something else
        raise ValueError(f"{name} cannot be made with {counted(bits, 'bit')}: {error}") from None


@torch.no_grad()
def _values(quantizer: Quantizer) -> Tensor:
    """W_hat of some normal W."""
    W = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    if isinstance(quantizer, nn.Module):
        quantizer = deepcopy(quantizer)
        quantizer.start(W)
    return quantized(quantizer, W)


class Evaluation(NamedTuple):
    """Mean cross-entropy and accuracies in percent over a data set."""

    loss: float
    top1: float
    top5: float


@torch.no_grad()
def evaluate(net: nn.Module, quantized_type: str | Quantizer | None, batches: Iterable) -> Evaluation:
    """Runs the net in eval mode with W' = W over batches of (inputs, targets); leaves no trace in the training state.

    Raises ValueError where there are no batches, and for a quantizer with a net that is not metaquantized.
    """
    if quantized_type is not None and not any(hasattr(module, "meta") for module in net.modules()):
        raise ValueError(f"the net {type(net).__name__} is not metaquantized: metaquantize(net) comes first")
    device = next(net.parameters()).device
    sums, count = torch.zeros(3, dtype=torch.float64, device=device), 0
    with in_mode(net, training=False):
        for inputs, targets in batches:
            inputs, targets = inputs.to(device), targets.to(device)
            outputs = net(inputs) if quantized_type is None else net(inputs, quantized_type=quantized_type)
            loss = F.cross_entropy(outputs, targets)
            sums += torch.stack([len(targets) * loss.double(), *hits(outputs, targets, (1, 5))])
            count += len(targets)
    if not count:
        raise ValueError("there is nothing to evaluate: no batches")
    loss, *counts = sums.tolist()
    return Evaluation(loss / count, *(100 * right / count for right in counts))


def test(
    net: nn.Module,
    quantized_type: str | Quantizer | None,
    test_loader: Iterable,
    dataset_name: str = "CIFAR10",
    n_batches_used: int | None = None,
) -> float:
    """Top-1 test accuracy in percent over the first `n_batches_used` batches (None: all), evaluated as by `evaluate`.

    dataset_name says what the loader holds; it does not change the number.
    """
    return evaluate(net, quantized_type, islice(test_loader, n_batches_used)).top1
