"""Quantizers with parameters of their own, which are trained together with the net's: LSQ's step, TTQ's two scales.

Such a quantizer is an nn.Module with the methods of `Quantizer` (quantizer.py) and `start`, which makes its parameters.
meta_utils/install.py puts it into a net. Adding one is one subclass of `TrainedQuantizer` and one line in utils/choices.py.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import shortened
from utils.layout import ONE_TENSOR, Layout, nonzero
from utils.quantizers.discretize import BY_STE, Discretize
from utils.quantizers.quantizer import Unprocessed, require_bits, require_two_bits, sign

SMALLEST = 1e-12  # scale that a forward computes with: float32 holds its square and that of its reciprocal


class TrainedQuantizer(Unprocessed, nn.Module):
    """Base class: W_tilde = W, calibration 1, and parameters with one value per quantized weight tensor.

    A subclass names its parameters in `names`; they are None until `start` has run. All that a forward depends on must be a
    parameter or a buffer: a resumed run has them from its checkpoint.
    """

    names: tuple[str, ...] = ()

    def __init__(self, bits: int):
        super().__init__()
        self.bits = bits
        for name in self.names:
            self.register_parameter(name, None)

    def first_values(self, part: Tensor) -> tuple[Tensor, ...]:
        """The scalars that the parameters begin with for a weight, given by its coordinates (n,); in the order of `names`."""
        raise NotImplementedError(f"{type(self).__name__} does not define first_values()")

    @torch.no_grad()
    def start(self, W: Tensor, layout: Layout = ONE_TENSOR) -> None:
        """Makes the parameters, each (number of weights,), from the stored W: one tensor, or all as one flat vector (N,).

        Raises ValueError where `first_values` does not return a number for each name.
        """
        found = [self.first_values(part) for part in layout.parts(W)]
        if wrong := [values for values in found if not self._are_numbers(values)]:
            expected = f"a tuple with a number for {', '.join(self.names)}"
            raise ValueError(f"{type(self).__name__}.first_values must return {expected}, not {shortened(str(wrong[0]), 80)}")
        for name, values in zip(self.names, zip(*found, strict=True), strict=True):
            setattr(self, name, nn.Parameter(torch.stack([torch.as_tensor(value).to(W).reshape(()) for value in values])))

    def _are_numbers(self, values: Any) -> bool:
        is_complete = isinstance(values, tuple) and len(values) == len(self.names)
        return is_complete and all(torch.as_tensor(value).numel() == 1 for value in values)

    def scale(self, name: str, layout: Layout, factor: Tensor | None = None) -> Tensor:
        """A parameter's |value|, at least SMALLEST, at each coordinate. factor (number of weights,): multiplies its gradient.

        A scale that an update takes through 0 thus stays positive, and its gradient does not vanish. Raises RuntimeError before
        `start`.
        """
        values = getattr(self, name)
        if values is None:
            raise RuntimeError(f"{self} has no {name} yet: install_quantizer(net, quantizer) makes it from the net's weights")
        return layout.spread(_Magnitude.apply(values, factor))

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class _Magnitude(torch.autograd.Function):
    """Value: |x|, at least SMALLEST. Gradient for x: the incoming one times sign(x), +1 at 0, and a factor."""

    @staticmethod
    def forward(ctx, x: Tensor, factor: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, factor)
        return x.abs().clamp(min=SMALLEST)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None]:
        x, factor = ctx.saved_tensors
        return g * (sign(x) if factor is None else sign(x) * factor), None


class LSQ(TrainedQuantizer):
    """W_hat = s round(clip(W / s, -Q_N, Q_P)), with one learned step s per weight tensor; any shape.

    Q_N = 2**(bits - 1) and Q_P = Q_N - 1; 1 bit: the two values -s and s, Q_N = Q_P = 1, sign(0) = +1.
    With STE the gradients are the paper's: dW_hat/dW is 1 where -Q_N <= W / s <= Q_P, else 0, and dW_hat/ds is
    round(W / s) - W / s there, -Q_N below and Q_P above. s has its gradient times 1 / sqrt(N Q_P), N the tensor's number of
    weights. Another estimator e takes the place of that indicator: dW_hat/dW = e, dW_hat/ds = W_hat / s - e W / s.
    s begins with 2 mean|W| / sqrt(Q_P); 1 bit: mean|W|.

    Esser, McKinstry, Bablani, Appuswamy, Modha: Learned Step Size Quantization, 2020.

    >>> quantizer = LSQ(bits=2)
    >>> quantizer.start(torch.tensor([-0.75, 0.125, 0.375, 0.75]))
    >>> quantizer.s.item()
    1.0
    >>> quantizer.quantize(torch.tensor([-3.0, -0.75, 0.125, 0.75]))
    tensor([-2., -1.,  0.,  1.], grad_fn=<MulBackward0>)

    Raises ValueError unless bits is an integer from 1 to 8.
    """

    names = ("s",)

    def __init__(self, bits: int = 1):
        require_bits("LSQ", bits)
        super().__init__(bits)
        self.Q_N = 2 ** (bits - 1)
        self.Q_P = max(self.Q_N - 1, 1)

    def first_values(self, part: Tensor) -> tuple[Tensor, ...]:
        mean = nonzero(part.abs().mean())
        return (mean if self.bits == 1 else 2 * mean / math.sqrt(self.Q_P),)

    def quantize(
        self, W_tilde: Tensor, W: Tensor | None = None, layout: Layout = ONE_TENSOR, discretize: Discretize = BY_STE
    ) -> Tensor:
        """W_hat = s n, the step from x, which is W_tilde / s moved and scaled so that [-Q_N, Q_P] becomes [-1, 1]."""
        s = self.scale("s", layout, factor=(layout.numel(W_tilde) * self.Q_P).rsqrt())
        steps = W_tilde / s
        n = self._rounded(steps.detach())
        middle, half = (self.Q_P - self.Q_N) / 2, (self.Q_P + self.Q_N) / 2
        q = (n - middle) / half
        return s * (half * discretize((steps - middle) / half, q, layout) + middle)  # half q + middle is exactly n

    def _rounded(self, steps: Tensor) -> Tensor:
        return sign(steps) if self.bits == 1 else steps.clamp(-self.Q_N, self.Q_P).round()

    def level(self, W_tilde: Tensor, layout: Layout = ONE_TENSOR) -> Tensor:
        """n + Q_N: which value each weight has, from 0 on (1 bit: 0 and 2), in W_tilde's dtype; no graph."""
        return self._rounded(W_tilde.detach() / self.scale("s", layout).detach()) + self.Q_N


class TTQ(TrainedQuantizer):
    """W_hat is W_p where W > t, -W_n where W < -t, else 0; t = 0.05 max|W|; W_p, W_n learned, one per weight tensor; any shape.

    The gradients are the paper's: dL/dW_p is the sum of dL/dW_hat over the weights at W_p, dL/dW_n minus that over the weights at
    -W_n (the paper's formula leaves the minus out), and dL/dW is dL/dW_hat times W_p, 1 or W_n, and times the estimator's factor
    at W: with STE 1(|W| <= 1), where the paper has 1. (It also divides W by max|W| first, which changes no W_hat.)
    They begin with the means of |W| beyond t on their sides.

    Zhu, Han, Mao, Dally: Trained Ternary Quantization, 2017.

    >>> quantizer, W = TTQ(), torch.tensor([-0.5, -0.25, 0.01, 1.0])
    >>> quantizer.start(W)
    >>> quantizer.quantize(W)
    tensor([-0.3750, -0.3750,  0.0000,  1.0000], grad_fn=<MulBackward0>)

    Raises ValueError unless bits is 2, which is what three values take.
    """

    names = ("W_p", "W_n")
    threshold = 0.05  # of max|W|

    def __init__(self, bits: int = 2):
        require_two_bits("TTQ", bits)
        super().__init__(bits)

    def first_values(self, part: Tensor) -> tuple[Tensor, ...]:
        t = self.threshold * part.abs().amax()
        both = _mean_where(part.abs() > t, part.abs(), nonzero(part.abs().mean()))  # for a side without weights
        return _mean_where(part > t, part, both), _mean_where(part < -t, -part, both)

    def quantize(
        self, W_tilde: Tensor, W: Tensor | None = None, layout: Layout = ONE_TENSOR, discretize: Discretize = BY_STE
    ) -> Tensor:
        """W_hat = factor q, q = -1, 0, 1, the step from x = W_tilde; factor = W_n, 1, W_p multiplies the gradient, too."""
        values = W_tilde.detach()
        t = self.threshold * layout.abs_max(values)
        q = (values > t).to(values.dtype) - (values < -t).to(values.dtype)
        factor = torch.where(q > 0, self.scale("W_p", layout), self.scale("W_n", layout)).masked_fill(q == 0, 1)
        return factor * discretize(W_tilde, q, layout, unit=factor.detach())


def _mean_where(chosen: Tensor, x: Tensor, otherwise: Tensor) -> Tensor:
    """The mean of the chosen coordinates of x; `otherwise` where none is chosen."""
    count = chosen.sum()
    return torch.where(count > 0, (x * chosen).sum() / count.clamp(min=1), otherwise)
