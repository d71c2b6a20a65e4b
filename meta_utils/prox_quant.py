"""ProxQuant (Bai, Wang, Liberty, 2019): training in full precision, with a proximal step towards the quantized weights."""

from dataclasses import dataclass

import torch
from torch import nn

from meta_utils.optimizee import rate_of
from meta_utils.training import TrainingLoop
from utils.quantizers.quantizer import Quantizer, quantized


@dataclass(frozen=True)
class ProxQuant:
    """A call after every update: every quantized layer's W moves towards W_hat = Q(A(W)) by alpha strength t, but not past it.

    That is the proximal step of the distance |W - W_hat|_1, with a strength that grows with the iteration t; from `hard_from` of
    the loop's iterations on, W is set to W_hat. The training forward computes with W (TrainingLoop's quantized_forward=False).
    As in the paper the strength grows linearly and a hard phase follows; the numbers are this project's choice.

    Raises ValueError for a quantizer for which Q(A(W_hat)) is not W_hat: the hard phase would move W on and on; and when it is
    called, for a loop that does not know how many iterations there will be.
    """

    quantizer: Quantizer
    strength: float = 1e-4
    hard_from: float = 2 / 3

    @torch.no_grad()
    def __post_init__(self):
        if isinstance(self.quantizer, nn.Module):
            return  # TrainingLoop refuses it
        W = torch.randn(1000, generator=torch.Generator().manual_seed(0))
        W_hat = quantized(self.quantizer, W)
        if not torch.allclose(quantized(self.quantizer, W_hat), W_hat, rtol=1e-5):
            raise ValueError(f"ProxQuant needs a quantizer with Q(A(W_hat)) = W_hat, and {self.quantizer} is none")

    @torch.no_grad()
    def __call__(self, loop: TrainingLoop) -> None:
        if loop.iterations is None:
            raise ValueError("ProxQuant depends on progress: say how many iterations there will be")
        t = loop.progress * loop.iterations
        rates, is_hard = loop.rates, loop.progress >= self.hard_from
        for layer, W_hat in zip(loop.net.meta.layers, loop.net.meta.quantized(self.quantizer), strict=True):
            gap = layer.weight - W_hat
            step = (rate_of(rates, layer.weight) * self.strength * t).masked_fill(is_hard, float("inf"))
            layer.weight.copy_(W_hat + gap.sign() * (gap.abs() - step).clamp(min=0))
