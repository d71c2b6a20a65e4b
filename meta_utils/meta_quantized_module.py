"""Layers that compute with a quantized weight, and the meta layers of a net as a whole.

A net owns its meta layers through `MetaLayers`: before each forward `prepare` quantizes all weights as one flat vector and hands
every layer the weight and bias to compute with; then the plain architecture runs.
"""

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meta_utils.meta_gradients import MetaGradients
from meta_utils.optimizee import Rates, rate_of
from utils.layout import FlatLayout
from utils.quantize import Quantizer


class MetaQuantizedLayer:
    """Mixed into a layer with `weight` and `bias`. After a training forward and backward it shows (shape of W each)

    - `pre_quantized_weight`: W_tilde, `quantized_weight`: W_hat of that forward;
    - `quantized_grads`: g_W_hat, by a hook; `pre_quantized_grads`: g_W_tilde, M's output that the forward used, or what autograd
      made by STE where it used none;
    - `calibration`: c of g_W = c g_W_tilde at that forward's W, where a learned gradient was used.

    An evaluation (eval mode or no_grad) changes none of them. Reading one before it exists raises RuntimeError, naming the layer.
    """

    name = "meta layer"
    _owner: "MetaLayers | None" = None
    _index = 0
    _operands: tuple[Tensor, Tensor | None] | None = None

    def _shown(self, symbol: str) -> Tensor:
        flat = None if self._owner is None else self._owner.shown.get(symbol)
        if flat is None:
            kind = "with a learned gradient" if symbol == "calibration" else "and its backward"
            raise RuntimeError(f"{self.name}: no {symbol} yet, it needs a quantized training forward {kind} first")
        return self._owner.layout.split(flat)[self._index]

    pre_quantized_weight = property(lambda self: self._shown("W_tilde"))
    quantized_weight = property(lambda self: self._shown("W_hat"))
    quantized_grads = property(lambda self: self._shown("g_W_hat"))
    pre_quantized_grads = property(lambda self: self._shown("g_W_tilde"))
    calibration = property(lambda self: self._shown("calibration"))

    def take_operands(self) -> tuple[Tensor, Tensor | None]:
        """The weight and bias that this forward computes with: what was handed over, once, or the layer's own."""
        operands, self._operands = self._operands, None
        return (self.weight, self.bias) if operands is None else operands


class MetaConv2d(MetaQuantizedLayer, nn.Conv2d):
    """nn.Conv2d with a quantized weight (C_out, C_in, k, k)."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, *self.take_operands())


class MetaLinear(MetaQuantizedLayer, nn.Linear):
    """nn.Linear with a quantized weight (C_out, C_in)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.take_operands())


class MetaLayers:
    """The meta layers of a net and what they show between iterations, in `shown`: symbol -> flat vector (N,) over all layers."""

    def __init__(self, named: Mapping[str, MetaQuantizedLayer]):
        self.names, self.layers = list(named), list(named.values())
        for index, (name, layer) in enumerate(named.items()):
            layer.name, layer._owner, layer._index = name, self, index
        self.shown: dict[str, Tensor] = {}
        self._layout: FlatLayout | None = None
        self._made_for: tuple | None = None

    @property
    def layout(self) -> FlatLayout:
        """Where each layer's coordinates lie in the flat vector; made anew when the weights' device or memory format changes."""
        first = self.layers[0].weight
        strides = [layer.weight.stride() for layer in self.layers]
        if self._layout is None or self._made_for != (first.device, strides):
            self._layout, self._made_for = FlatLayout(layer.weight for layer in self.layers), (first.device, strides)
        return self._layout

    def weights(self) -> Tensor:
        """W of all layers, flat (N,); keeps the graph to the parameters."""
        return self.layout.flatten(layer.weight for layer in self.layers)

    def refined(self) -> Tensor:
        """r of all layers, flat (N,): the refined gradients in weight.grad. Raises RuntimeError where a layer has none."""
        for layer in self.layers:
            if layer.weight.grad is None:
                raise RuntimeError(f"{layer.name}: a meta gradient needs the refined gradient in weight.grad, and there is none")
        return self.layout.flatten(layer.weight.grad for layer in self.layers)

    def get(self, symbol: str) -> Tensor:
        """A flat vector of `shown`. Raises RuntimeError with the first layer's name where it does not exist yet."""
        self.layers[0]._shown(symbol)
        return self.shown[symbol]

    def prepare(self, quantizer: Quantizer | None, meta_grad_dict: Mapping[str, tuple], lr: Rates, training: bool) -> None:
        """Hands every layer the weight W_hat = Q(A(W')) and the bias of the coming forward: step 3 of the loop, Eq. (6).

        With meta gradients W' = W - alpha (u + stopgrad(r - u)), whose value is W - alpha r exactly and whose derivative with
        respect to phi is that of -alpha u; a bias is b - alpha r_b. Without them W' = W.
        lr: alpha, or each parameter's own.
        training: show W_tilde, W_hat and, from the backward on, g_W_hat; with meta gradients g_W_tilde and calibration.
        Raises ValueError for meta gradients without a quantizer, RuntimeError where a weight has no refined gradient.
        """
        if quantizer is None:
            if meta_grad_dict:
                raise ValueError("meta gradients need a quantizer (quantized_type is None)")
            for layer in self.layers:
                layer._operands = None
            return
        W = stored = self.weights()
        biases, meta_grads = [layer.bias for layer in self.layers], None
        if meta_grad_dict:
            meta_grads = MetaGradients.of(meta_grad_dict, self.names, self.layout)
            u = meta_grads.calibrate(quantizer, stored)
            W = self._minus(self._minus(stored, self.refined(), lr), u - u.detach(), lr)
            refined = zip(biases, meta_grads.bias_grads, strict=True)
            biases = [b if r is None else b.sub(r, alpha=rate_of(lr, b)) for b, r in refined]
        W_tilde = quantizer.preprocess(W, self.layout)
        W_hat = quantizer.quantize(W_tilde, stored, self.layout)
        if training:
            self._show(W_tilde, W_hat, meta_grads)
        for layer, weight, bias in zip(self.layers, self.layout.split(W_hat), biases, strict=True):
            layer._operands = (weight, bias)

    def _minus(self, x: Tensor, y: Tensor, lr: Rates) -> Tensor:
        """x - alpha y, flat (N,), with each layer's alpha; keeps the graph."""
        if not isinstance(lr, Mapping):
            return x.sub(y, alpha=lr)
        pieces = zip(x.split(self.layout.sizes), y.split(self.layout.sizes), self.layers, strict=True)
        return torch.cat([x_part.sub(y_part, alpha=rate_of(lr, layer.weight)) for x_part, y_part, layer in pieces])

    def _show(self, W_tilde: Tensor, W_hat: Tensor, meta_grads: MetaGradients | None) -> None:
        self.shown = {"W_tilde": W_tilde.detach(), "W_hat": W_hat.detach()}
        if meta_grads:
            self.shown |= {"calibration": meta_grads.calibration, "g_W_tilde": meta_grads.g_W_tilde.detach()}
            W_hat.register_hook(partial(self.shown.__setitem__, "g_W_hat"))
        else:  # autograd may make such a gradient a weight's .grad, which is refined in place: a copy is shown
            W_hat.register_hook(partial(self._show_copy, "g_W_hat"))
            W_tilde.register_hook(partial(self._show_copy, "g_W_tilde"))

    def _show_copy(self, symbol: str, g: Tensor) -> None:
        self.shown[symbol] = g.clone()

    def state_dict(self) -> dict[str, Tensor]:
        """What the next iteration needs: g_W_hat and W_tilde, flat; empty before the first backward."""
        return {symbol: self.shown[symbol] for symbol in ("g_W_hat", "W_tilde") if "g_W_hat" in self.shown}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state_dict` gave."""
        device = self.layers[0].weight.device
        self.shown = {symbol: value.to(device) for symbol, value in state.items()}
