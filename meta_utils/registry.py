"""The optimizees by name, with the weight decay that the published runs gave each."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from meta_utils.adam import Adam
from meta_utils.optimizee import Optimizee
from meta_utils.SGD import SGD


class OptimizeeChoice(NamedTuple):
    """build(params, lr=..., weight_decay=...), and the default weight decay with a learned gradient and with STE."""

    build: Callable[..., Optimizee]
    decay_learned: float
    decay_ste: float


OPTIMIZEES: dict[str, OptimizeeChoice] = {
    "SGD": OptimizeeChoice(SGD, 0.0, 0.0),
    "SGD-M": OptimizeeChoice(partial(SGD, momentum=0.9), 5e-4, 5e-4),
    "Nesterov": OptimizeeChoice(partial(SGD, momentum=0.9, nesterov=True), 5e-4, 5e-4),
    "Adam": OptimizeeChoice(Adam, 5e-4, 0.0),
    "AMSGrad": OptimizeeChoice(partial(Adam, amsgrad=True), 5e-4, 0.0),
}
