"""A quantizer with parameters of its own (utils/quantizers/trained.py) as a part of a net, and of what an optimizee trains."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from utils.choices import QUANTIZERS
from utils.quantizers.quantizer import Quantizer, require_start
from utils.schedules import QUANTIZER_GROUP as NAME  # of the submodule, too


def install_quantizer(net: nn.Module, quantizer: Quantizer) -> Quantizer:
    """Makes a quantizer the submodule `quantizer` of a metaquantized net, set up from the net's weights; returns it.

    Its parameters are then the net's, under `quantizer.*` in the state dict, which files of the plain net lack: load those
    before. A quantizer that is no module has no parameters, and leaves the net as it is.

    Raises ValueError for a net that is not metaquantized, for a module without `start`, and where the net has a submodule or
    attribute of that name.
    """
    require_metaquantized(net)
    if not isinstance(quantizer, nn.Module):
        return quantizer
    require_start(quantizer)
    if hasattr(net, NAME):
        raise ValueError(f"the net has a {NAME} already: {getattr(net, NAME)}")
    W = net.meta.weights().detach()
    quantizer.start(W, net.meta.layout)
    net.add_module(NAME, quantizer.to(W))
    net.meta.quantizer = quantizer
    return quantizer


@contextmanager
def without_quantizer(net: nn.Module) -> Iterator[None]:
    """For the net's own forward, which may call all of its submodules, as that of nn.Sequential does: not this one."""
    whole = net._modules
    if net.meta.quantizer is not None:
        net._modules = {name: module for name, module in whole.items() if name != NAME}
    try:
        yield
    finally:
        net._modules = whole


def installed_quantizer(net: nn.Module, name: str | Quantizer | None) -> Quantizer | None:
    """The quantizer that is installed in a net, where a registered name means its class; None otherwise."""
    installed = net.meta.quantizer
    is_name = installed is not None and isinstance(name, str) and name in QUANTIZERS
    return installed if is_name and type(installed) is QUANTIZERS.load(name) else None


def parameter_groups(net: nn.Module, quantizer_lr: float | None = None) -> Iterable[Any]:
    """What an optimizee of a net takes: all its parameters, and an installed quantizer's in a group of their own.

    That group has no weight decay. quantizer_lr: its learning rate; None: the optimizee's.

    Raises ValueError for a net that is not metaquantized.
    """
    require_metaquantized(net)
    own = list(net.meta.quantizer.parameters()) if net.meta.quantizer is not None else []
    if not own:
        return net.parameters()
    group = {"name": NAME, "params": own, "weight_decay": 0.0}
    others = [p for name, p in net.named_parameters() if not name.startswith(f"{NAME}.")]
    return [{"name": "net", "params": others}, group if quantizer_lr is None else group | {"lr": quantizer_lr}]


def require_metaquantized(net: nn.Module) -> None:
    """Raises ValueError for a net that is not metaquantized."""
    if not hasattr(net, "meta"):
        raise ValueError(f"the net {type(net).__name__} is not metaquantized: metaquantize(net) comes first")
