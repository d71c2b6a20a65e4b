"""Quantizes the weights of any net, in place: `metaquantize(net)`.

The weights are found by their parameters' names. A forward with a quantizer is the net's own forward, called by
torch.func.functional_call with W_hat under the names of W, so that names and shapes in the state dict stay what they were, a
module that is called twice is quantized in both calls, and a weight that two modules share is quantized once.
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy
from torch.profiler import record_function

from meta_utils.install import NAME as INSTALLED
from meta_utils.install import installed_quantizer, without_quantizer
from meta_utils.meta_gradients import NO_META_GRADIENTS
from meta_utils.meta_layers import SYMBOLS, MetaLayer, MetaLayers
from meta_utils.optimizee import Rates
from utils.errors import shortened
from utils.layout import Filters
from utils.quantize import get_quantizer
from utils.quantizers.quantizer import Quantizer

OWN = ("layer_name_list", "meta")  # the attributes that a net gets
ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")  # the first, or the other three


def metaquantize(
    net: nn.Module, keep: Iterable[str] = (), bitW: int | None = None, autocast: torch.dtype | None = None
) -> nn.Module:
    """Makes the weights of every Conv1d/2d/3d, ConvTranspose, Linear and nn.MultiheadAttention of a net quantizable, in place.

    keep: patterns (as of fnmatch, such as "conv1" or "*.downsample.*") of the dotted names of layers that stay in full precision.
    bitW: bits per weight where `quantized_type` below is a name; None: the quantizer's own number.
    autocast: what the net's own forward computes products in, by torch.autocast, such as torch.bfloat16; None: in its tensors'
        dtype. The quantizer is not part of it: W, W_tilde, W_hat, their gradients and the net's output keep W's dtype.

    Returns the same net. It is called as `net(inputs, quantized_type=None, meta_grad_dict={}, lr=1e-3)`:
    quantized_type: a quantizer or its registered name; None computes with the full-precision weights. The name of a quantizer
        that is installed (install.py) means that one.
    meta_grad_dict: layer name -> (path, g_W_tilde, bias gradient or None) for all quantized layers or none, from
        meta_gradient_generation; the layers compute with their updated weights W' (step 3 of the loop), with a graph to phi.
    lr: alpha, the step from W to W'; or parameter -> its own alpha.
    New attributes: `layer_name_list`, a pair (dotted name, path for get_layer) for each quantized layer; `meta`, the MetaLayers;
    each quantized layer shows what the notebook reads off it (the keys of SYMBOLS), and raises RuntimeError before it exists.
    State dict and parameters are those of the plain net. The type of a quantized layer is a subclass of what it was, by the same
    name: isinstance(m, nn.Linear) holds, type(m) is nn.Linear does not. A quantized net must not use torch.utils.checkpoint,
    which calls layers again in the backward, where their weights are W: such a call raises BadPart.

    Raises ValueError, naming it, for a pattern that matches no layer, a net without a layer to quantize, a lazily built layer, a
    layer whose weight is not a parameter of its own (weight_norm), a shared weight of which one layer is to be kept and
    another not, weights that are not all float32 or all float64, or without a number, a net that is metaquantized already or has
    an attribute of one of these names.
    """
    if isinstance(keep, str):
        raise ValueError(f"keep takes a list of patterns, not the text {keep!r}")
    keep = tuple(keep)
    for name, module in net.named_modules():
        is_layer = isinstance(module, _Guarded)  # of a net that is
        if is_layer or isinstance(getattr(module.__dict__.get("forward"), "__self__", None), QuantizedForward):
            raise ValueError(f"{name or 'the net'} is metaquantized already")
    if taken := [name for name in OWN if hasattr(net, name)]:
        raise ValueError(f"the net has an attribute {taken[0]} of its own")
    layers = _quantized_layers(net, keep)
    net.meta = MetaLayers(layers)
    net.layer_name_list = [(layer.name, layer.path) for layer in layers]
    for layer in layers:
        if not isinstance(layer.module, _Guarded):
            layer.module.__class__ = _mixed(_Showing if layer.parameter == "weight" else _Guarded, type(layer.module))
            layer.module._shown_by = layer
    net.forward = QuantizedForward(net, bitW, autocast).forward
    return net


@torch.no_grad()
def plain_copy(net: nn.Module, quantizer: Quantizer | None = None) -> nn.Module:
    """A copy of a metaquantized net as it was before: of its own classes, with their forward. The net stays as it is.

    quantizer: the copy's weights are W_hat, so that it computes what the net computes with this quantizer in an evaluation;
    torch.export, torch.jit.trace and torch.onnx take it. None: its weights are W.
    """
    W_hat = net.meta.quantized(quantizer) if quantizer else [layer.weight for layer in net.meta.layers]
    copy = deepcopy(net)
    for layer, weight in zip(copy.meta.layers, W_hat, strict=True):
        layer.weight.copy_(weight)
        if isinstance(layer.module, _Guarded):
            layer.module.__class__ = layer.module._plain_type
            del layer.module._shown_by
    for name in (*OWN, "forward", *([INSTALLED] if copy.meta.quantizer is not None else [])):
        delattr(copy, name)
    return copy


class QuantizedForward:
    """The forward of a metaquantized net, which calls the net's own.

    A net has it as a bound method, because torch.export looks for its code.
    """

    def __init__(self, net: nn.Module, bitW: int | None, autocast: torch.dtype | None):
        self._plain, self._bitW = _PlainForward(net, autocast), bitW

    @record_function("forward")
    def forward(
        self,
        inputs: Tensor,
        quantized_type: str | Quantizer | None = None,
        meta_grad_dict: Mapping[str, tuple] = NO_META_GRADIENTS,
        lr: Rates = 1e-3,
    ) -> Any:
        """The net's output, as `metaquantize` says."""
        net = self._plain.net
        net.meta.require_in_place(net)
        quantizer = installed_quantizer(net, quantized_type) or get_quantizer(quantized_type, self._bitW)
        training = net.training and torch.is_grad_enabled()
        operands = net.meta.prepare(quantizer, meta_grad_dict, lr, training)
        if not operands:
            return self._plain(inputs)
        named = {f"net.{name}": value for name, value in operands.items()}
        net.meta.in_forward = True
        try:
            return functional_call(self._plain, named, (inputs,), tie_weights=False)
        finally:
            net.meta.in_forward = False


class _PlainForward(nn.Module):
    """A net by its own forward, as a module of its own, so that the net's hooks run once. autocast: as of `metaquantize`."""

    def __init__(self, net: nn.Module, autocast: torch.dtype | None):
        super().__init__()
        self.net, self._forward, self._autocast = net, net.forward, autocast

    def forward(self, inputs: Tensor) -> Any:
        with without_quantizer(self.net):
            if self._autocast is None:
                return self._forward(inputs)
            with torch.autocast(inputs.device.type, self._autocast):
                outputs = self._forward(inputs)
        return _with_dtype(outputs, self._autocast, self.net.meta.layers[0].weight.dtype)


def _with_dtype(outputs: Any, there: torch.dtype, wanted: torch.dtype) -> Any:
    """A net's outputs with tensors of another dtype in the place of those that autocast made."""
    if isinstance(outputs, Tensor):
        return outputs.to(wanted) if outputs.dtype == there else outputs
    if isinstance(outputs, dict):
        return type(outputs)({name: _with_dtype(value, there, wanted) for name, value in outputs.items()})
    if type(outputs) in (tuple, list):
        return type(outputs)(_with_dtype(value, there, wanted) for value in outputs)
    return outputs


class _Guarded:
    """Mixed into the class of a module with quantized weights: it notices where it is called without them."""

    _mixin: type
    _plain_type: type

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self._shown_by.require_forward()
        return super().forward(*args, **kwargs)

    def __reduce_ex__(self, protocol: int) -> tuple:
        return _new_mixed, (self._mixin, self._plain_type), self.__dict__


class _Showing(_Guarded):
    """A layer that shows W_tilde, W_hat and gradients by the notebook's names."""

    def __getattr__(self, name: str) -> Any:
        if name in SYMBOLS:
            return getattr(self._shown_by, name)
        return super().__getattr__(name)


@cache
def _mixed(mixin: type, plain_type: type) -> type:
    """A module's class with a mixin, by the same name."""
    about = {"__module__": plain_type.__module__, "__doc__": plain_type.__doc__, "_mixin": mixin, "_plain_type": plain_type}
    return type(plain_type.__name__, (mixin, plain_type), about)


def _new_mixed(mixin: type, plain_type: type) -> nn.Module:
    mixed = _mixed(mixin, plain_type)
    return mixed.__new__(mixed)


class _Candidate(NamedTuple):
    """A weight that can be quantized: its layer's names, the layer, the weight's name in it, and that of its bias.

    names: the first is the layer's; a layer that stands in the net more than once has several.
    """

    names: tuple[str, ...]
    module: nn.Module
    parameter: str
    bias: str | None

    @property
    def shown_name(self) -> str:
        """The name in `layer_name_list`."""
        return self._name_shown(self.names[0])

    def _name_shown(self, name: str) -> str:
        return name if self.parameter == "weight" else _joined(name, self.parameter)

    @property
    def filters(self) -> Filters | None:
        if isinstance(self.module, _ConvTransposeNd):
            return Filters(transposed=True, groups=self.module.groups)
        return Filters() if isinstance(self.module, _ConvNd) else None

    def matches(self, pattern: str) -> bool:
        """Whether a pattern of `keep` means it."""
        return any(fnmatchcase(name, pattern) or fnmatchcase(self._name_shown(name), pattern) for name in self.names)


def _quantized_layers(net: nn.Module, keep: tuple[str, ...]) -> list[MetaLayer]:
    """The weights of a net that are quantized, each once, in the order of its modules."""
    found = _candidates(net, keep)
    if not found:
        raise ValueError(f"{type(net).__name__} has no convolution and no linear layer to quantize")
    names = shortened(", ".join(one.shown_name for one in found), 200)
    for pattern in keep:
        if not any(one.matches(pattern) for one in found):
            raise ValueError(f"keep: {pattern!r} matches no layer of {type(net).__name__}, which has {names}")
    uses: dict[int, list[str]] = {}
    for name, module in net.named_modules():
        for own, p in module._parameters.items():
            if p is not None:
                uses.setdefault(id(p), []).append(_joined(name, own))
    layers: dict[int, MetaLayer] = {}
    in_full_precision: dict[int, str] = {}
    for candidate in found:
        W = candidate.module._parameters.get(candidate.parameter)
        is_kept = any(map(candidate.matches, keep))
        if W is None:  # of a kept layer, parametrized
            continue
        other = ({key: layer.name for key, layer in layers.items()} if is_kept else in_full_precision).get(id(W))
        if other is not None:
            raise ValueError(f"keep: {candidate.shown_name} and {other} share their weight, and only one of them is to be kept")
        if is_kept:
            in_full_precision[id(W)] = candidate.shown_name
        elif id(W) not in layers:
            bias = getattr(candidate.module, candidate.bias) if candidate.bias else None
            bias_uses = tuple(uses.get(id(bias), ())) if bias is not None else ()
            bias_name = candidate.bias if bias_uses else None
            its_uses = tuple(uses[id(W)])
            layer = candidate.shown_name, candidate.module, candidate.parameter, bias_name, its_uses, bias_uses, candidate.filters
            layers[id(W)] = MetaLayer(*layer)
    if not layers:
        raise ValueError(f"keep leaves no layer of {type(net).__name__} to quantize")
    return list(layers.values())


def _candidates(net: nn.Module, keep: tuple[str, ...]) -> list[_Candidate]:
    """All weights of a net that can be quantized.

    Raises ValueError for one that is not a parameter, or has no values yet, and that no pattern of `keep` means.
    """
    found = []
    all_names: dict[nn.Module, list[str]] = {}
    for name, module in net.named_modules(remove_duplicate=False):
        all_names.setdefault(module, []).append(name)
    for module, names in all_names.items():
        if isinstance(module, nn.MultiheadAttention):
            parameters = [parameter for parameter in ATTENTION if module._parameters.get(parameter) is not None]
            biases = ["in_proj_bias", None, None]  # one for all three
            found += [_Candidate(tuple(names), module, *both) for both in zip(parameters, biases, strict=False)]
        elif isinstance(module, (_ConvNd, nn.Linear)):
            parameters = ["weight"]
            found.append(_Candidate(tuple(names), module, "weight", "bias"))
        else:
            continue
        if any(fnmatchcase(name, pattern) for name in names for pattern in keep):
            continue
        values = [module._parameters.get(parameter) for parameter in parameters]
        label = f"layer {names[0] or type(module).__name__}"
        if any(p is not None and is_lazy(p) for p in values):
            raise ValueError(f"{label} is built lazily: run one forward of the net before metaquantize")
        if not values or any(p is None for p in values):
            raise ValueError(f"{label}: its weight is no parameter of its own; remove its weight_norm or other parametrization")
    return found


def _joined(*names: str) -> str:
    return ".".join(filter(None, names))
