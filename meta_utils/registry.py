"""The optimizees by name: as the published runs had them with a learned gradient, and torch.optim's with STE."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from meta_utils.adam import Adam
from meta_utils.optimizee import Optimizee
from meta_utils.SGD import SGD


class OptimizeeChoice(NamedTuple):
    """build(params, lr=..., weight_decay=...), and the default weight decay with a learned gradient and with STE.

    options_ste: extra keyword arguments of build with STE.
    """

    build: Callable[..., Optimizee]
    decay_learned: float
    decay_ste: float
    options_ste: Mapping[str, Any] = MappingProxyType({})


TORCHS_EPS = MappingProxyType({"bias_corrected_eps": True})

OPTIMIZEES: dict[str, OptimizeeChoice] = {
    "SGD": OptimizeeChoice(SGD, 0.0, 0.0),
    "SGD-M": OptimizeeChoice(partial(SGD, momentum=0.9), 5e-4, 5e-4),
    "Nesterov": OptimizeeChoice(partial(SGD, momentum=0.9, nesterov=True), 5e-4, 5e-4),
    "Adam": OptimizeeChoice(Adam, 5e-4, 0.0, TORCHS_EPS),
    "AMSGrad": OptimizeeChoice(partial(Adam, amsgrad=True), 5e-4, 0.0, TORCHS_EPS),
}
