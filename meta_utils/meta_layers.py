"""The quantized weights of a net: where they are, what they show after a training forward, and what a forward computes with.

Before each forward `MetaLayers.prepare` quantizes all weights as one flat vector and names what the net computes with in their
place; the net itself stays what it is (metaquantize.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from meta_utils.meta_gradients import MetaGradients
from meta_utils.optimizee import Rates, minus, rate_of
from utils.errors import BadPart
from utils.layout import Filters, FlatLayout
from utils.quantizers.discretize import require_tensor
from utils.quantizers.quantizer import Quantizer, evaluating, quantized, without_estimator

SYMBOLS = {  # what the notebook reads off a layer -> the symbol in `MetaLayers.shown`
    "pre_quantized_weight": "W_tilde",
    "quantized_weight": "W_hat",
    "quantized_grads": "g_W_hat",
    "pre_quantized_grads": "g_W_tilde",
    "calibration": "calibration",
}


@dataclass(eq=False)
class MetaLayer:
    """A quantized weight of a net. It shows the keys of SYMBOLS, in the weight's shape; RuntimeError before they exist.

    name: of its layer, dotted, as in `layer_name_list` (of nn.MultiheadAttention's own weights: the parameter's name).
    module: the layer; parameter, bias_parameter: its names in the layer (None: no bias).
    uses: every parameter name in the net under which the weight is used, several where layers share it; bias_uses: likewise.
    filters: the output channels of a convolution; None for a linear map.
    """

    name: str
    module: nn.Module
    parameter: str
    bias_parameter: str | None
    uses: tuple[str, ...]
    bias_uses: tuple[str, ...]
    filters: Filters | None
    shown_in: tuple["MetaLayers", int] | None = None  # the layers that this is one of, and its place among them

    def __getattr__(self, name: str) -> Tensor:
        if name not in SYMBOLS:
            raise AttributeError(f"MetaLayer has no attribute {name!r}")
        layers, index = self.shown_in
        return layers.shown_by(index, SYMBOLS[name])

    @property
    def path(self) -> tuple[str, ...]:
        """The path for get_layer."""
        dotted = self.name if self.parameter == "weight" else self.name.removesuffix(self.parameter).rstrip(".")
        return tuple(dotted.split(".")) if dotted else ()

    def require_forward(self) -> None:
        """Raises BadPart in the backward of a quantized forward, where the layer would compute with W."""
        net = self.shown_in[0]
        in_backward = not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
        if in_backward and net.quantizes and not net.in_forward:
            raise BadPart(f"{self.name} is called again in the backward, without W_hat: the net must not use checkpointing")

    @property
    def weight(self) -> nn.Parameter:
        """W, of any shape."""
        return getattr(self.module, self.parameter)

    @property
    def bias(self) -> nn.Parameter | None:
        """The layer's bias."""
        return getattr(self.module, self.bias_parameter) if self.bias_parameter else None


def _require_quantizable(layers: Sequence[MetaLayer]) -> None:
    """Raises ValueError for a weight without a number, of another dtype than float32 and float64, or than the first layer's."""
    first = layers[0]
    for layer in layers:
        W, dtype = layer.weight, first.weight.dtype
        if not W.numel():
            raise ValueError(f"layer {layer.name}: its weight, {tuple(W.shape)}, has no number to quantize")
        if W.dtype not in (torch.float32, torch.float64):
            advice = "for products in bf16 it stays float32: metaquantize(net, autocast=torch.bfloat16)"
            raise ValueError(f"layer {layer.name}: its weight is {W.dtype}, not float32 or float64; {advice}")
        if W.dtype != dtype:
            raise ValueError(f"layer {layer.name}: its weight is {W.dtype}, and that of {first.name} {dtype}")


class _Lookahead(torch.autograd.Function):
    """W' = W - alpha (u + stopgrad(r - u)), u = c g_W_tilde, Eqs. (4) and (6), from its value W - alpha r.

    Its derivative with respect to g_W_tilde is -alpha c, in one pass where autograd would take six. times_minus_alpha: of two
    tensors' product.
    """

    @staticmethod
    def forward(
        ctx, value: Tensor, g_W_tilde: Tensor, c: Tensor, times_minus_alpha: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        ctx.save_for_backward(c)
        ctx.times_minus_alpha = times_minus_alpha
        return value.view_as(value)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        (c,) = ctx.saved_tensors
        return g, ctx.times_minus_alpha(g, c) if ctx.needs_input_grad[1] else None, None, None


def _checked(quantizer: Quantizer, method: str, returned: Tensor, W: Tensor, training: bool) -> Tensor:
    """What a quantizer's method returned. Raises BadPart unless it is like W and, in training, has a graph if W has one."""
    name = f"{type(without_estimator(quantizer)).__name__}.{method}"
    require_tensor(name, returned, W, "W")
    if training and W.requires_grad and not returned.requires_grad:
        raise BadPart(f"{name} returned a tensor without a gradient for W, which would never be trained")
    return returned


class MetaLayers:
    """The quantized weights of a net and what they show between iterations, in `shown`: symbol -> flat vector (N,) over all.

    After a training forward and backward `shown` holds
    - W_tilde and W_hat of that forward;
    - g_W_hat, by a hook; g_W_tilde: M's output that the forward used, or what autograd made of g_W_hat where it used none;
    - calibration: c of g_W = c g_W_tilde at that forward's W, where a learned gradient was used.
    An evaluation (eval mode or no_grad) changes none of them.
    quantizer: the one with parameters that is installed in the net (install.py); None: none. quantizes: whether the last forward
    with a graph computed with W_hat; in_forward: whether one with W_hat is at work.
    Raises ValueError for weights that are not all float32 or all float64, or without a number.
    """

    def __init__(self, layers: Sequence[MetaLayer]):
        self.layers = list(layers)
        _require_quantizable(self.layers)
        self.quantizer: nn.Module | None = None
        self.quantizes = self.in_forward = False
        self.paths = {layer.name: layer.path for layer in layers}  # for get_layer, in the order of the net's modules
        for index, layer in enumerate(self.layers):
            layer.shown_in = (self, index)
        self.shown: dict[str, Tensor] = {}
        self._layout: FlatLayout | None = None
        self._laid_out = self._kinds()  # the kinds of weights that the layout is of, or will be

    @property
    def layout(self) -> FlatLayout:
        """Where each layer's coordinates lie in the flat vector; made anew when the weights' device, dtype or strides change.

        Raises ValueError for weights that metaquantize does not take.
        """
        kinds = self._kinds()
        if kinds != self._laid_out:  # the net was converted or moved
            _require_quantizable(self.layers)
            self._layout, self._laid_out = None, kinds
        if self._layout is None:
            weights, filters = zip(*((layer.weight, layer.filters) for layer in self.layers), strict=True)
            self._layout = FlatLayout(weights, filters)
        return self._layout

    def _kinds(self) -> list[tuple]:
        return [(layer.weight.device, layer.weight.dtype, layer.weight.stride()) for layer in self.layers]

    def require_in_place(self, net: nn.Module) -> None:
        """Raises RuntimeError where a layer of the net was replaced, or its weight parametrized or tied, after metaquantize."""
        for layer in self.layers:
            module: nn.Module | None = net
            for name in layer.path:
                module = module._modules.get(name) if module is not None else None
            if module is not layer.module or module._parameters.get(layer.parameter) is None:
                raise RuntimeError(f"{layer.name} is not the layer any more that metaquantize saw: change the net before")
        if len({id(layer.weight) for layer in self.layers}) < len(self.layers):
            raise RuntimeError("two layers share their weight, which they did not when metaquantize saw them: tie them before")

    def weights(self) -> Tensor:
        """W of all layers, flat (N,); keeps the graph to the parameters."""
        return self.layout.flatten(layer.weight for layer in self.layers)

    def refined(self) -> Tensor:
        """r of all layers, flat (N,): the refined gradients in weight.grad. Raises RuntimeError where a layer has none."""
        for layer in self.layers:
            if layer.weight.grad is None:
                raise RuntimeError(f"{layer.name}: a meta gradient needs the refined gradient in weight.grad, and there is none")
        return self.layout.flatten(layer.weight.grad for layer in self.layers)

    @torch.no_grad()
    def quantized(self, quantizer: Quantizer) -> list[Tensor]:
        """W_hat = Q(A(W)) of each layer, in its weight's shape, as in an evaluation. Raises ValueError as require_own does."""
        self.require_own(quantizer)
        W = self.weights()
        with evaluating(quantizer):
            return self.layout.split(quantized(quantizer, W, self.layout))

    def require_own(self, quantizer: Quantizer) -> None:
        """Raises ValueError where the net has a quantizer with parameters, and this is another, as that of the net's original."""
        own = without_estimator(quantizer)
        if self.quantizer is not None and isinstance(own, nn.Module) and own is not self.quantizer:
            raise ValueError(f"this {own} is not the net's own, which is net.meta.quantizer")

    def gather(self) -> None:
        """Gives the weights the places that W_hat has in a forward: one behind the other, with its strides. Loses their values.

        A net whose weights are W_hat then computes bit for bit what the forward computes: torch chooses algorithms by strides.
        """
        first = self.layers[0].weight
        for layer, place in zip(self.layers, self.layout.split(first.new_empty(sum(self.layout.sizes))), strict=True):
            layer.weight.data = place

    def get(self, symbol: str, index: int = 0) -> Tensor:
        """A flat vector of `shown`. Raises RuntimeError with the name of layer `index` where it does not exist yet."""
        if symbol not in self.shown:
            kind = "with a learned gradient" if symbol == "calibration" else "and its backward"
            raise RuntimeError(f"{self.layers[index].name}: no {symbol} yet, it needs a quantized training forward {kind} first")
        return self.shown[symbol]

    def shown_by(self, index: int, symbol: str) -> Tensor:
        """A layer's part of a flat vector of `shown`, in the weight's shape. Raises RuntimeError as `get` does."""
        return self.layout.split(self.get(symbol, index))[index]

    def prepare(
        self, quantizer: Quantizer | None, meta_grad_dict: Mapping[str, tuple], lr: Rates, training: bool
    ) -> dict[str, Tensor]:
        """What the coming forward computes with, by parameter name: each weight's W_hat = Q(A(W')), and biases; step 3, Eq. (6).

        With meta gradients W' = W - alpha (u + stopgrad(r - u)), whose value is W - alpha r exactly and whose derivative with
        respect to phi is that of -alpha u; a bias is b - alpha r_b. Without them W' = W. Empty without a quantizer.
        lr: alpha, or each parameter's own.
        training: show W_tilde, W_hat and, from the backward on, g_W_hat; with meta gradients g_W_tilde and calibration.
        Raises ValueError for meta gradients without a quantizer, and as require_own does; RuntimeError where a weight has no
        refined gradient; BadPart where the quantizer returns something else than W_tilde and W_hat.
        """
        if torch.is_grad_enabled():
            self.quantizes = quantizer is not None
        if quantizer is None:
            if meta_grad_dict:
                raise ValueError("meta gradients need a quantizer (quantized_type is None)")
            return {}
        self.require_own(quantizer)
        W = stored = self.weights()
        operands, meta_grads = {}, None
        if meta_grad_dict:
            meta_grads = MetaGradients.of(meta_grad_dict, self.paths, self.layout)
            meta_grads.calibrate(quantizer, stored)
            value = self._minus(stored, self.refined(), lr)
            W = _Lookahead.apply(value, meta_grads.g_W_tilde, meta_grads.calibration, partial(self._times_minus, lr))
            for layer, r in zip(self.layers, meta_grads.bias_grads, strict=True):
                if r is not None:
                    operands |= dict.fromkeys(layer.bias_uses, minus(layer.bias, r, rate_of(lr, layer.bias)))
        W_tilde = _checked(quantizer, "preprocess", quantizer.preprocess(W, self.layout), W, training)
        W_hat = _checked(quantizer, "quantize", quantizer.quantize(W_tilde, stored, self.layout), W, training)
        if training:
            self._show(W_tilde, W_hat, meta_grads)
        for layer, weight in zip(self.layers, self.layout.split(W_hat), strict=True):
            operands |= dict.fromkeys(layer.uses, weight)
        return operands

    def _minus(self, x: Tensor, y: Tensor, lr: Rates) -> Tensor:
        """x - alpha y, flat (N,), with each layer's alpha."""
        if not isinstance(lr, Mapping):
            return minus(x, y, lr)
        pieces = zip(self.layout.parts(x), self.layout.parts(y), self.layers, strict=True)
        return torch.cat([minus(x_part, y_part, rate_of(lr, layer.weight)) for x_part, y_part, layer in pieces])

    def _times_minus(self, lr: Rates, x: Tensor, y: Tensor) -> Tensor:
        """-alpha x y, flat (N,), with each layer's alpha."""
        if isinstance(lr, Tensor):
            return x * -lr * y
        if not isinstance(lr, Mapping):
            return torch.addcmul(x.new_zeros(()), x, y, value=-lr)
        pieces = zip(self.layout.parts(x), self.layout.parts(y), self.layers, strict=True)
        return torch.cat([x_part * -rate_of(lr, layer.weight) * y_part for x_part, y_part, layer in pieces])

    def _show(self, W_tilde: Tensor, W_hat: Tensor, meta_grads: MetaGradients | None) -> None:
        self.shown = {"W_tilde": W_tilde.detach(), "W_hat": W_hat.detach()}
        if not W_hat.requires_grad:  # every weight is frozen
            return
        if meta_grads:
            self.shown |= {"calibration": meta_grads.calibration, "g_W_tilde": meta_grads.g_W_tilde.detach()}
            W_hat.register_hook(partial(self.shown.__setitem__, "g_W_hat"))
        else:  # autograd may make such a gradient a weight's .grad, which is refined in place: a copy is shown
            W_hat.register_hook(partial(self._show_copy, "g_W_hat"))
            if W_tilde.requires_grad:  # it does not where only a quantizer's own parameters are trained
                W_tilde.register_hook(partial(self._show_copy, "g_W_tilde"))

    def _show_copy(self, symbol: str, g: Tensor) -> None:
        self.shown[symbol] = g.clone()

    def state_dict(self) -> dict[str, Tensor]:
        """What the next iteration needs: g_W_hat and W_tilde, flat; empty before the first backward."""
        return {symbol: self.shown[symbol] for symbol in ("g_W_hat", "W_tilde") if "g_W_hat" in self.shown}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what `state_dict` gave."""
        self.shown = dict(state)
