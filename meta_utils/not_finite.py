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

    Where it is an output, and the module holds others that it does not call but uses, as nn.MultiheadAttention its output
    projection, the first of those that is not finite. forward: calls the net.
    """
    called: set[str] = set()
    found: list[tuple[str, bool]] = []  # with whether it is an output

    def before(name: str, module: nn.Module) -> None:
        called.add(name)
        if not _is_finite(module):
            found.append((name, False))

    def after(name: str, output: Any) -> None:
        outputs = output if isinstance(output, (tuple, list)) else [output]  # a recurrent layer has several
        if not _are_finite(outputs):
            found.append((name, True))

    modules, handles = dict(net.named_modules()), []
    for name, module in modules.items():
        handles.append(module.register_forward_pre_hook(lambda module, _, name=name: before(name, module)))
        handles.append(module.register_forward_hook(lambda module, _, output, name=name: after(name, output)))
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        return "with every layer finite"
    name, is_output = found[0]
    if is_output and name:
        held = [other for other in modules if other.startswith(f"{name}.") and other not in called]
        name = next((other for other in held if not _is_finite(modules[other])), name)
    return f"first in layer {name}" if name else "first in the net itself, outside of its layers"


def _is_finite(module: nn.Module) -> bool:
    return _are_finite([*module.parameters(recurse=False), *module.buffers(recurse=False)])


def _are_finite(values: Iterable[Any]) -> bool:
    return all(torch.isfinite(value).all() for value in values if isinstance(value, Tensor))
