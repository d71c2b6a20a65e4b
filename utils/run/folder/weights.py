"""State dicts: found in what a file holds, compared with a net's own, and loaded strictly."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import shortened

WRAPPERS = ("state_dict", "net", "model")  # where training programs put a state dict among other things
PREFIXES = ("module.", "_orig_mod.")  # that DataParallel and torch.compile put before every name
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
COUNTER = "num_batches_tracked"  # of batch normalisation; torch lets a state dict lack it, too


def state_dict_in(content: Any) -> dict[str, Tensor]:
    """The state dict that a file's content is, or holds under one of the usual names. Raises ValueError, and says what it is."""
    if _is_state_dict(content):
        return content
    if isinstance(content, dict) and {"loop", "recorder"} <= set(content):
        raise ValueError("is the checkpoint of a run: give the run's folder in its place")
    if isinstance(content, dict):
        found = [name for name in WRAPPERS if _is_state_dict(content.get(name)) and content[name]]
        if len(found) == 1:
            return content[found[0]]
        if found:
            raise ValueError(f"holds {len(found)} state dicts, under {', '.join(found)}: save the one you mean by itself")
        keys = shortened(", ".join(map(repr, content)), 100)
        raise ValueError(f"is not a plain state dict (name -> tensor), nor holds one under {', '.join(WRAPPERS)}; it has {keys}")
    raise ValueError(f"is not a plain state dict (name -> tensor), but of type {type(content).__name__}")


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, dict) and all(isinstance(n, str) and isinstance(v, Tensor) for n, v in content.items())


def without_prefixes(weights: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without what DataParallel and torch.compile have put before every name; own: the names of the net."""
    for prefix in (prefix for _ in PREFIXES for prefix in PREFIXES):
        if weights and all(name.startswith(prefix) for name in weights) and not any(name.startswith(prefix) for name in own):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def load_weights(net: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Loads a state dict strictly. Raises ValueError as checked_weights does."""
    net.load_state_dict(checked_weights(net, weights))


def checked_weights(net: nn.Module, weights: Mapping[str, Tensor], lacks_counters: bool = False) -> dict[str, Tensor]:
    """A state dict that can be loaded strictly. lacks_counters: batch normalisation's may be missing, and are the net's then.

    Raises ValueError with the first of what is missing, unexpected, or not a tensor like the net's own.
    """
    own = net.state_dict()
    if lacks_counters:
        weights = {name: value for name, value in own.items() if name.rpartition(".")[2] == COUNTER} | dict(weights)
    if wrong := differences(weights, own):
        raise ValueError(wrong)
    return dict(weights)


def differences(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """What keeps weights from being those of a net, in words; empty where nothing does. own: the net's."""
    wrong = [
        *(f"{name} is missing" for name in own if name not in weights),
        *(f"{name} is unexpected" for name in weights if name not in own),
        *(f"{name} {why}" for name in own if name in weights and (why := _difference(weights[name], own[name]))),
    ]
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return f"{shortened(wrong[0])}{more}" if wrong else ""


def _difference(value: Tensor, own: Tensor) -> str | None:
    if special := _special(value):
        return f"is a {special} tensor, not a plain one"
    if value.shape != own.shape:
        return f"has shape {tuple(value.shape)}, not {tuple(own.shape)}"
    if own.is_floating_point():
        fits, wanted = value.dtype in FLOATS, "float32"
    else:  # a counter; as a float, too, where someone converted the whole file
        whole = value.dtype in FLOATS and torch.equal(value, value.long().to(value.dtype))
        fits, wanted = value.dtype in INTEGERS or whole, "whole numbers"
    return None if fits else f"is {str(value.dtype).removeprefix('torch.')}, not {wanted}"


def _special(value: Tensor) -> str | None:
    if value.is_nested:
        return "nested"
    if value.is_quantized:
        return "quantized"
    if value.layout != torch.strided:
        return "sparse"
    return "meta" if value.device.type == "meta" else None
