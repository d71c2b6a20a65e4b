"""A loss that is not finite, and the layer in which that begins."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class NotFinite(Exception):
    """Raised where an iteration's loss is not finite, before a parameter is updated.

    args: the loss, and the first layer with a value that is not finite.
    """


def require_scalar(loss: Any) -> None:
    """Raises ValueError for a loss that is no scalar."""
    if not isinstance(loss, Tensor) or loss.dim():
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"criterion must return a scalar, not {got}")


@torch.no_grad()
def first_not_finite(net: nn.Module, forward: Callable[[], Any]) -> str:
    """Names the first layer, in the order of the forward, whose weight or output is not finite. forward: calls the net."""
    found: list[str] = []

    def look(name: str, layer: nn.Module, output: Any) -> None:
        outputs = output if isinstance(output, (tuple, list)) else [output]  # a recurrent layer has several
        values = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
        values += [value for value in outputs if isinstance(value, Tensor)]
        if not found and not all(torch.isfinite(value).all() for value in values):
            found.append(name)

    leaves = [(name, layer) for name, layer in net.named_modules() if not list(layer.children())]
    handles = [layer.register_forward_hook(lambda layer, _, out, name=name: look(name, layer, out)) for name, layer in leaves]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return f"first in layer {found[0]}" if found else "with every layer finite"
