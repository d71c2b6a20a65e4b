"""Checks that the numbers of a checkpoint or base model are finite, and its variances not negative.

Each check synchronises with the device, so it is made only where the program synchronises anyway.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from utils.run.folder.record import fault_of_result


def first_not_finite(state: Any) -> str | None:
    """The name, such as "net.conv1.weight", of the first tensor in nested mappings and lists that holds a NaN or an infinity."""
    return next((name for name, value in _tensors(state, "") if not torch.isfinite(value).all()), None)


def _tensors(state: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(state, Tensor):
        if state.is_floating_point():
            yield name, state
    elif isinstance(state, (Mapping, list, tuple)):
        members = state.items() if isinstance(state, Mapping) else enumerate(state)
        for key, member in members:
            yield from _tensors(member, f"{name}.{key}" if name else str(key))


def fault_of_checkpoint(state: Any) -> str | None:
    """Which tensor of the training loop, or number of the last test, is not finite in a checkpoint; None: all are."""
    if not isinstance(state, Mapping):
        return None
    if name := first_not_finite(state.get("loop")):
        return f"{name} is not finite"
    return fault_of_result(state.get("result"))


def fault_of_weights(weights: Mapping[str, Tensor]) -> str | None:
    """Why no net can compute with the values of a state dict, naming the first; None where they can be used."""
    if name := first_not_finite(weights):
        return f"{name} has values that are not finite"
    negative = (name for name, value in weights.items() if name.endswith("running_var") and (value < 0).any())
    return next((f"{name} has negative values" for name in negative), None)
