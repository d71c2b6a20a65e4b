"""A loss that is not finite, and the module in which that begins."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class NotFinite(Exception):
    """Raised where an iteration's loss is not finite, before a parameter is updated.

    args: the loss, and the first module with a value that is not finite.
    """


def require_scalar(loss: Any) -> None:
    """Raises ValueError for a loss that is no scalar."""
    if not isinstance(loss, Tensor) or loss.dim():
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"criterion must return a scalar, not {got}")


@torch.no_grad()
def first_not_finite(net: nn.Module, forward: Callable[[], Any]) -> str:
    """Names the first module, in the order of the forward, that has a parameter, buffer or output that is not finite.

    A module that is never called by itself, as the output projection of nn.MultiheadAttention, is used where the one that holds
    it is called. forward: calls the net.
    """
    called: list[str] = []
    found: list[tuple[int, str]] = []  # by the number of calls before

    def before(name: str, module: nn.Module) -> None:
        if not _are_finite([*module.parameters(recurse=False), *module.buffers(recurse=False)]):
            found.append((len(called), name))
        called.append(name)

    def after(name: str, output: Any) -> None:
        if not _are_finite(output if isinstance(output, (tuple, list)) else [output]):  # a recurrent layer has several
            found.append((len(called), name))

    modules = dict(net.named_modules())
    handles = [
        module.register_forward_pre_hook(lambda module, _, name=name: before(name, module)) for name, module in modules.items()
    ]
    handles += [
        module.register_forward_hook(lambda module, _, output, name=name: after(name, output)) for name, module in modules.items()
    ]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    for name, module in modules.items():
        if name not in called and not _are_finite([*module.parameters(recurse=False), *module.buffers(recurse=False)]):
            holder = next((parent for parent in _parents(name) if parent in called), "")
            found.append((called.index(holder) if holder in called else len(called), name))
    if not found:
        return "with every layer finite"
    name = min(found, key=lambda entry: entry[0])[1]
    return f"first in layer {name}" if name else "first in the net's own parameters"


def _parents(name: str) -> list[str]:
    """The modules that hold a module, by name, the closest first: a.b.c -> a.b, a and the net itself."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(len(parts) - 1, -1, -1)]


def _are_finite(values: Iterable[Any]) -> bool:
    return all(torch.isfinite(value).all() for value in values if isinstance(value, Tensor))
