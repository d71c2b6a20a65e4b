"""Layers that quantize their weight and take a learned gradient through their meta hook.

A net owns its meta layers through `MetaLayers`: before each forward it hands every layer the weight and bias to compute with
(`prepare`), all layers quantized as one flat vector, and then runs the plain architecture.
"""

from collections.abc import Mapping
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

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
        flat = None if self._owner is None else self._owner.kept.get(symbol)
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
    """The meta layers of a net and what they keep between iterations, in `kept`: symbol -> flat vector (N,) over all layers."""

    def __init__(self, named: Mapping[str, MetaQuantizedLayer]):
        self.layers = list(named.values())
        for index, (name, layer) in enumerate(named.items()):
            layer.name, layer._owner, layer._index = name, self, index
        self.kept: dict[str, Tensor] = {}
        self._layout: FlatLayout | None = None
        self._made_for: tuple | None = None
        self._folded: tuple[Mapping[str, tuple], Tensor] | None = None  # meta_grad_dict and its u

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

    def get(self, symbol: str) -> Tensor:
        """A flat vector that is kept. Raises RuntimeError with the first layer's name where it does not exist yet."""
        self.layers[0]._shown(symbol)
        return self.kept[symbol]

    def fold(self, quantizer: Quantizer, meta_grad_dict: Mapping[str, tuple], training: bool = True) -> None:
        """u = calibration(W) * g_W_tilde, with a graph to phi, ready for the coming forward (which folds by itself if need be).

        training: keep `calibration`, `g_W_tilde` and `g_W` = stopgrad(u). Raises ValueError where a layer is not in the dict.
        """
        missing = [layer.name for layer in self.layers if layer.name not in meta_grad_dict]
        if missing:
            raise ValueError(f"no meta gradient for {', '.join(missing)}")
        g_W_tilde = self.layout.flatten(meta_grad_dict[layer.name][1] for layer in self.layers)
        calibration = quantizer.calibration(self.weights().detach(), self.layout)
        u = calibration * g_W_tilde
        self._folded = meta_grad_dict, u
        if training:
            self.kept |= {"calibration": calibration, "g_W_tilde": g_W_tilde.detach(), "g_W": u.detach()}

    def prepare(self, quantizer: Quantizer | None, meta_grad_dict: Mapping[str, tuple], lr: float, training: bool) -> None:
        """Hands every layer the weight and bias of the coming forward: step 3 of the loop.

        With meta gradients W' = W - alpha (u + stopgrad(r - u)), whose value is W - alpha r exactly and whose derivative for phi
        is that of -alpha u, and b - alpha r_b. Then W_tilde = A(W'), W_hat = Q(W_tilde).
        training: keep W_tilde and W_hat, and g_W_hat by a hook.
        Raises ValueError for meta gradients without a quantizer, RuntimeError where a weight has no refined gradient.
        """
        if quantizer is None:
            if meta_grad_dict:
                raise ValueError("meta gradients need a quantizer (quantized_type is None)")
            for layer in self.layers:
                layer._operands = None
            return
        layout, stored = self.layout, self.weights()
        W, biases = stored, [layer.bias for layer in self.layers]
        if meta_grad_dict:
            if self._folded is None or self._folded[0] is not meta_grad_dict:
                self.fold(quantizer, meta_grad_dict, training)
            (_, u), self._folded = self._folded, None
            r = layout.flatten(self._refined(layer) for layer in self.layers)
            W = stored.sub(r, alpha=lr).sub(u - u.detach(), alpha=lr)
            bias_grads = [meta_grad_dict[layer.name][2] for layer in self.layers]
            biases = [b if g is None else b.sub(g, alpha=lr) for b, g in zip(biases, bias_grads, strict=True)]
        W_tilde = quantizer.preprocess(W, layout)
        W_hat = quantizer.quantize(W_tilde, stored, layout)
        if training:
            self._keep(W_tilde, W_hat, learned=bool(meta_grad_dict))
        for layer, weight, bias in zip(self.layers, layout.split(W_hat), biases, strict=True):
            layer._operands = (weight, bias)

    @staticmethod
    def _refined(layer: MetaQuantizedLayer) -> Tensor:
        if layer.weight.grad is None:
            raise RuntimeError(f"{layer.name}: a meta gradient needs the refined gradient in weight.grad, and there is none")
        return layer.weight.grad

    def _keep(self, W_tilde: Tensor, W_hat: Tensor, learned: bool) -> None:
        self.kept |= {"W_tilde": W_tilde.detach(), "W_hat": W_hat.detach()}
        for symbol in ("g_W_hat",) if learned else ("g_W_hat", "g_W_tilde", "g_W", "calibration"):
            self.kept.pop(symbol, None)
        W_hat.register_hook(partial(self._keep_gradient, "g_W_hat", learned))
        if not learned:
            W_tilde.register_hook(partial(self._keep_gradient, "g_W_tilde", learned))

    def _keep_gradient(self, symbol: str, learned: bool, g: Tensor) -> None:
        # autograd may make g a weight's .grad, which is refined in place; a learned gradient takes its place before that
        self.kept[symbol] = g if learned else g.clone()

    def state_dict(self) -> dict[str, Tensor]:
        """What the next iteration needs: g_W_hat and W_tilde, flat; empty before the first backward."""
        return {symbol: self.kept[symbol] for symbol in ("g_W_hat", "W_tilde") if "g_W_hat" in self.kept}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state_dict` gave."""
        device = self.layers[0].weight.device
        self.kept = {symbol: value.to(device) for symbol, value in state.items()}
