"""The fixed gradient estimators: how a gradient passes the quantizer Q, which has no useful derivative.

Each is a small value with one formula, g_x = estimator(g_q, x, q, progress), elementwise. Nothing is learned here; the learned
estimators are the meta networks in meta_network.py. Only tensor operations that do not depend on values are used, so that an
iteration can be captured as a CUDA graph in which progress is overwritten between replays.
Adding an estimator is one subclass of `Estimator` and one line in utils/choices.py; from a program of one's own,
`ESTIMATORS["mine"] = Mine()`. ESTIMATORS: dict[str, Estimator], by the names of `--backward`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.choices import ESTIMATORS
from utils.quantizers.discretize import Estimator


def _require(condition: bool, name: str, value: float, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name} must be {allowed}, not {value!r}")


@dataclass(frozen=True)
class IdentitySTE(Estimator):
    """g_x = g_q, also where |x| > 1.

    Bengio, Leonard, Courville: Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation, 2013.

    >>> x, progress = torch.tensor([-1.5, 0.5, 1.0]), torch.tensor(0.5)
    >>> IdentitySTE()(torch.tensor([1.0, 2.0, 3.0]), x, x.sign(), progress)
    tensor([1., 2., 3.])
    """

    def __call__(self, g_q: Tensor, x: Tensor, q: Tensor, progress: Tensor) -> Tensor:
        return g_q


@dataclass(frozen=True)
class ApproxSign(Estimator):
    """g_x = g_q max(0, 2 - 2|x|), the derivative of the piecewise quadratic 2x - x|x| on [-1, 1], constant outside.

    Liu, Wu, Luo, Yang, Liu, Cheng: Bi-Real Net, 2018, where it serves the activations; here it serves the weights.

    >>> x, progress = torch.tensor([-1.5, 0.0, 0.75]), torch.tensor(0.5)
    >>> ApproxSign()(torch.tensor([1.0, 1.0, 2.0]), x, x.sign(), progress)
    tensor([0., 2., 1.])
    """

    def __call__(self, g_q: Tensor, x: Tensor, q: Tensor, progress: Tensor) -> Tensor:
        return x.abs().mul_(-2).add_(2).clamp_(min=0).mul_(g_q)


@dataclass(frozen=True)
class EDE(Estimator):
    """g_x = g_q k t (1 - tanh(t x)^2), the derivative of k tanh(t x); t = 10^(-1 + 2 progress), k = max(1/t, 1).

    The function turns from almost x (t = 0.1) into almost sign(x) (t = 10). It is written for weights of standard deviation 1:
    x comes divided by its layer's. IR-Net standardises per filter instead and removes the filter's mean as well.

    Qin, Gong, Liu, Shen, Wei, Yu, Song: Forward and Backward Information Retention for Accurate Binary Neural Networks, 2020.

    >>> x = torch.tensor([-1.0, 0.0, 0.5])
    >>> EDE()(torch.ones(3), x, x.sign(), torch.tensor(0.0))
    tensor([0.9901, 1.0000, 0.9975])
    >>> EDE()(torch.ones(3), x, x.sign(), torch.tensor(0.5))
    tensor([0.4200, 1.0000, 0.7864])
    """

    standardized = True
    scheduled = True

    def t(self, progress: Tensor) -> Tensor:
        """10^(-1 + 2 progress), from 0.1 to 10; 0-dim."""
        return torch.pow(10, 2 * progress - 1)

    def __call__(self, g_q: Tensor, x: Tensor, q: Tensor, progress: Tensor) -> Tensor:
        t = self.t(progress).to(x.dtype)
        s = x.abs().mul_(-2 * t).sigmoid_()  # 1 - tanh(t x)^2 = 4 s (1 - s), which takes half of the time
        return torch.ops.aten.sigmoid_backward(g_q, s).mul_(4 * t.clamp(min=1))  # k t = max(1, t)


@dataclass(frozen=True)
class ReSTE(Estimator):
    """g_x = g_q (1/o) |x|^(1/o - 1), the derivative of sign(x) |x|^(1/o); o grows linearly with progress from 1 to `o_end`.

    The derivative is infinite at 0 for o > 1: below |x| = `chord_below` (m) the function is replaced by its chord from 0 to m,
    with the slope m^(1/o) / m. Above |x| = `zero_above` the gradient is 0. With o = 1 it is g_q 1(|x| <= `zero_above`).

    Wu, Zheng, Liu, Zheng: Estimator Meets Equilibrium Perspective: A Rectified Straight Through Estimator for Binary Neural
    Networks Training, 2023.

    >>> x = torch.tensor([-2.0, 0.0, 0.125, 1.0])
    >>> ReSTE()(torch.ones(4), x, x.sign(), torch.tensor(1.0))
    tensor([0.0000, 4.6416, 1.3333, 0.3333])

    Raises ValueError unless o_end is finite and at least 1, and 0 < chord_below < zero_above.
    """

    o_end: float = 3.0
    chord_below: float = 0.1
    zero_above: float = 1.5

    scheduled = True

    def __post_init__(self):
        _require(1 <= self.o_end < math.inf, "ReSTE's o_end", self.o_end, "a finite number of at least 1")
        _require(0 < self.zero_above < math.inf, "ReSTE's zero_above", self.zero_above, "a finite number above 0")
        allowed = f"above 0 and below zero_above = {self.zero_above!r}"
        _require(0 < self.chord_below < self.zero_above, "ReSTE's chord_below", self.chord_below, allowed)

    def o(self, progress: Tensor) -> Tensor:
        """The exponent's denominator, from 1 to o_end; 0-dim."""
        return 1 + (self.o_end - 1) * progress

    def __call__(self, g_q: Tensor, x: Tensor, q: Tensor, progress: Tensor) -> Tensor:
        inverse = self.o(progress).reciprocal()
        exponent = inverse - 1
        chord = torch.pow(self.chord_below, exponent).to(x.dtype)
        x_abs = x.abs()
        # |x|^exponent in half of the time; infinite at 0, or NaN, where the chord takes its place
        slope = x_abs.log().mul_(exponent.to(x.dtype)).exp_().mul_(inverse.to(x.dtype))
        return torch.where(x_abs < self.chord_below, chord, slope).mul_(g_q).masked_fill_(x_abs > self.zero_above, 0)


@dataclass(frozen=True)
class EWGS(Estimator):
    """g_x = g_q (1 + delta sign(g_q) (x - q) / 2): element-wise gradient scaling by the error of quantization.

    A gradient whose descent step moves x towards q is enlarged, one that moves x away from q is reduced. The paper's x and q
    lie in [0, 1], half the centred scale: hence the division by 2. delta is constant here; the paper also adapts it to the
    curvature of the loss, and clips x to an interval that it learns.

    Lee, Kim, Ham: Network Quantization with Element-wise Gradient Scaling, 2021.

    >>> x, progress = torch.tensor([-0.5, 0.0, 3.0]), torch.tensor(0.5)
    >>> EWGS(delta=0.5)(torch.tensor([1.0, -2.0, 1.0]), x, torch.tensor([-1.0, 1.0, 1.0]), progress)
    tensor([ 1.1250, -2.5000,  1.5000])

    Raises ValueError unless delta is finite and not negative.
    """

    delta: float = 1e-3

    def __post_init__(self):
        _require(0 <= self.delta < math.inf, "EWGS's delta", self.delta, "a finite number of at least 0")

    def __call__(self, g_q: Tensor, x: Tensor, q: Tensor, progress: Tensor) -> Tensor:
        return torch.addcmul(g_q, g_q.abs(), x - q, value=self.delta / 2)  # g_q sign(g_q) = |g_q|


@dataclass(frozen=True)
class BinaryRelax(Estimator):
    """The training forward uses (lambda q + x) / (lambda + 1) in place of q, and q itself at the end; g_x = g_q.

    x and q have to be in the same unit. lambda grows geometrically with progress, from 1 to `lambda_end` at progress
    `hard_from`; from there on the value is q, bit for bit. As in the paper there is a relaxed phase with geometric growth, then
    a hard one; this schedule's numbers (lambda up to 100, the last fifth of training hard) are this project's choice.

    Yin, Zhang, Lyu, Osher, Qi, Xin: BinaryRelax: A Relaxation Approach for Training Deep Neural Networks with Quantized
    Weights, 2018.

    >>> x, q = torch.tensor([-0.5, 0.0, 3.0]), torch.tensor([-1.0, 1.0, 1.0])
    >>> BinaryRelax().forward_value(x, q, torch.tensor(0.0))
    tensor([-0.7500,  0.5000,  2.0000])
    >>> BinaryRelax().forward_value(x, q, torch.tensor(0.8))
    tensor([-1.,  1.,  1.])

    Raises ValueError unless lambda_end is finite and at least 1, and 0 < hard_from <= 1.
    """

    lambda_end: float = 100.0
    hard_from: float = 0.8

    scheduled = relaxed = True

    def __post_init__(self):
        _require(1 <= self.lambda_end < math.inf, "BinaryRelax's lambda_end", self.lambda_end, "a finite number of at least 1")
        _require(0 < self.hard_from <= 1, "BinaryRelax's hard_from", self.hard_from, "above 0 and at most 1")

    def relaxation(self, progress: Tensor) -> Tensor:
        """lambda, from 1 to lambda_end at progress `hard_from`, where the hard phase begins; 0-dim."""
        return torch.pow(self.lambda_end, progress / self.hard_from)

    def __call__(self, g_q: Tensor, x: Tensor, q: Tensor, progress: Tensor) -> Tensor:
        return g_q

    def forward_value(self, x: Tensor, q: Tensor, progress: Tensor) -> Tensor:
        share_of_x = (self.relaxation(progress) + 1).reciprocal().to(x.dtype)
        return torch.where(progress >= self.hard_from, q, torch.lerp(q, x, share_of_x))


for _name in ESTIMATORS:
    ESTIMATORS.load(_name)
