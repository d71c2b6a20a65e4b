"""Layers that quantize their weight and carry their own meta hook.

A net hands each layer its gradient once (`prepare`) and then runs the plain architecture: the layer's forward takes the hook,
computes with W_hat and keeps what the next iteration needs.
"""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.quantize import Quantizer


class MetaHook(NamedTuple):
    """What one forward computes with. meta_grad: (path, g_W_tilde, bias gradient or None), or None where W' = W."""

    quantizer: Quantizer | None = None
    meta_grad: tuple | None = None
    lr: float = 0.0


class MetaQuantizedLayer:
    """Mixed into a layer with `weight` and `bias`. After a training forward and backward it holds (shape of W each)

    - `pre_quantized_weight`: W_tilde, `quantized_weight`: W_hat of that forward;
    - `quantized_grads`: g_W_hat, by a hook; `pre_quantized_grads`: g_W_tilde;
    - `calibration`: dW_tilde/dW at that forward's W, where a learned gradient was used.

    An evaluation (eval mode or no_grad) changes none of them. Reading one before it exists raises RuntimeError.
    """

    name = "meta layer"
    pre_quantized_weight: Tensor | None = None
    quantized_weight: Tensor | None = None
    calibration: Tensor | None = None
    _g_W_hat: Tensor | None = None
    _g_W_tilde: Tensor | None = None
    _hook = MetaHook()

    def prepare(self, quantizer: Quantizer | None, meta_grad: tuple | None, lr: float) -> None:
        """Sets the hook that the next forward takes. Raises ValueError for a meta gradient without a quantizer."""
        if meta_grad is not None and quantizer is None:
            raise ValueError(f"{self.name}: a meta gradient needs a quantizer (quantized_type is None)")
        self._hook = MetaHook(quantizer, meta_grad, lr)

    @property
    def quantized_grads(self) -> Tensor:
        """g_W_hat of the last training forward."""
        if self._g_W_hat is None:
            raise RuntimeError(f"{self.name}: no g_W_hat yet, it needs a quantized training forward and its backward first")
        return self._g_W_hat

    @property
    def pre_quantized_grads(self) -> Tensor:
        """g_W_tilde of the last training forward: M's output that it used, or what autograd made by STE where it used none."""
        if self._g_W_tilde is None:
            raise RuntimeError(f"{self.name}: no g_W_tilde yet, it needs a quantized training forward and its backward first")
        return self._g_W_tilde

    def kept(self) -> dict[str, Tensor]:
        """What the next iteration needs of this layer, by symbol; empty before the first backward."""
        return {} if self._g_W_hat is None else {"g_W_hat": self._g_W_hat, "W_tilde": self.pre_quantized_weight}

    def restore(self, kept: dict[str, Tensor]) -> None:
        """Takes back what `kept` gave."""
        device = self.weight.device
        self._g_W_hat, self.pre_quantized_weight = (
            None if name not in kept else kept[name].to(device) for name in ("g_W_hat", "W_tilde")
        )

    def operands(self) -> tuple[Tensor, Tensor | None]:
        """The weight and bias that this forward computes with: steps A and Q of the loop, and W' where M gave a gradient."""
        (quantizer, meta_grad, lr), self._hook = self._hook, MetaHook()
        W, bias = self.weight, self.bias
        if quantizer is None:
            return W, bias
        training = self.training and torch.is_grad_enabled()
        if meta_grad is not None:
            W, bias = self._updated(quantizer, meta_grad, lr)
        W_tilde = quantizer.preprocess(W.view_as(W))  # a view: hooks go on this forward's tensor, not on the parameter
        W_hat = quantizer.quantize(W_tilde, self.weight)
        if training:
            self.quantized_weight = W_hat.detach()
            # without a meta gradient W_tilde may be the parameter itself (BWN), which the update changes in place
            self.pre_quantized_weight = W_tilde.detach().clone() if meta_grad is None else W_tilde.detach()
            self._g_W_hat = self._g_W_tilde = None
            W_hat.register_hook(partial(setattr, self, "_g_W_hat"))
            if meta_grad is None:
                W_tilde.register_hook(partial(setattr, self, "_g_W_tilde"))
            else:
                self._g_W_tilde = meta_grad[1].detach()
        return W_hat, bias

    def _updated(self, quantizer: Quantizer, meta_grad: tuple, lr: float) -> tuple[Tensor, Tensor | None]:
        """W' = W - alpha (u + stopgrad(r - u)) with u = calibration * g_W_tilde, and b - alpha r_b: step 3 of the loop.

        The value is W - alpha r exactly; the derivative for phi is that of -alpha u.
        """
        _, g_W_tilde, bias_grad = meta_grad
        if self.weight.grad is None:
            raise RuntimeError(f"{self.name}: a meta gradient needs the refined gradient in weight.grad, and there is none")
        self.calibration = quantizer.calibration(self.weight)
        u = self.calibration * g_W_tilde
        W = self.weight.sub(self.weight.grad, alpha=lr) - lr * (u - u.detach())
        bias = self.bias if bias_grad is None else self.bias.sub(bias_grad, alpha=lr)
        return W, bias


class MetaConv2d(MetaQuantizedLayer, nn.Conv2d):
    """nn.Conv2d with a quantized weight (C_out, C_in, k, k)."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.operands()
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class MetaLinear(MetaQuantizedLayer, nn.Linear):
    """nn.Linear with a quantized weight (C_out, C_in)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.operands())
