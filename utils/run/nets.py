"""A net by its name: made for the data's classes, and tried on images before a run begins."""

from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from utils.batches import SIZE
from utils.choices import MODELS
from utils.environment import random_states, restore_random_states
from utils.errors import BadInput, failures_of
from utils.miscellaneous import in_mode


def check_net_name(model: str) -> None:
    """Raises BadInput where torchvision has no such classifier, naming the closest ones."""
    try:
        MODELS.load(model)
    except ValueError as error:
        raise BadInput(f"-m/--model: {error}") from None


def plain_net(model: str, num_classes: int, one_image: bool = False) -> nn.Module:
    """The full-precision net of a name, at random: images (B, 3, 32, 32) -> logits (B, num_classes).

    one_image: training will meet a batch of a single image. The net is tried on such images, which changes neither its buffers
    nor, unless it is built lazily, the state of the random generators. Raises BadInput, naming the net, for a net that cannot be
    made or take them; for a state dict with anything but tensors; for a buffer that training changes and that is not in it; and
    for one that training makes, whose first value would be of these images.
    """
    check_net_name(model)
    with failures_of(f"-m {model}: this net cannot be made for {SIZE}x{SIZE} images and {num_classes} classes"):
        net = MODELS.load(model)(num_classes=num_classes)
    after: dict[str, Tensor] = {}
    for training in (False, True):
        with failures_of(f"-m {model}: this net cannot take {SIZE}x{SIZE} images"):
            before = {name: after.get(name, buffer) for name, buffer in net.named_buffers() if not is_lazy(buffer)}
            logits, after = _outputs(net, 2, training, before)
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if shape != (2, num_classes):
            mode = " in training" if training else ""
            raise BadInput(f"-m {model}: for 2 images this net must return logits of shape {(2, num_classes)}{mode}, not {shape}")
    if fault := fault_of_state(net):
        raise BadInput(f"-m {model}: this net's {fault}")
    if made := [name for name, _ in net.named_buffers() if name not in before]:
        raise BadInput(f"-m {model}: training makes the buffer {made[0]} of this net: register it with its first value")
    if lost := _lost_buffers(net, before, after):
        changed = f"-m {model}: training changes the buffer {lost[0]} of this net, which is not in its state dict"
        raise BadInput(f"{changed}: `evaluate` and a resumed run would not have it; register it without persistent=False")
    if one_image:
        advice = "choose another -bs/--batch-size, or leave out the last one with --drop-last"
        with failures_of(f"-m {model}: this net cannot train on a batch of one image, which an epoch has here: {advice}"):
            _outputs(net, 1, training=True, buffers=after)
    return net


def fault_of_state(module: nn.Module) -> str | None:
    """What of a state dict no checkpoint can hold, in words that follow the module's name; None: nothing."""
    other = [name for name, value in module.state_dict().items() if not isinstance(value, Tensor)]
    return f"state dict must hold tensors alone, and {other[0]} (of get_extra_state) is none" if other else None


def is_built_lazily(net: nn.Module) -> bool:
    """Whether parameters or buffers of the net have no shape before its first forward."""
    return any(map(is_lazy, chain(net.parameters(), net.buffers())))


@torch.no_grad()
def _outputs(net: nn.Module, images: int, training: bool, buffers: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """What the net makes of some images with these buffers, and what the buffers are afterwards, by name.

    Leaves no trace in the net or in the random generators. Only a net that is built lazily gets its parameters here, from random
    numbers that nothing else may get again.
    """
    states = None if is_built_lazily(net) else random_states()
    values = torch.linspace(0, 1, images * 3 * SIZE * SIZE).view(images, 3, SIZE, SIZE)
    after = {name: buffer.clone() for name, buffer in buffers.items()}
    try:
        with in_mode(net, training):
            return functional_call(net, after, (values,)), after  # which also takes a buffer that is assigned anew
    finally:
        if states is not None:
            restore_random_states(states)


def _lost_buffers(net: nn.Module, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """The names of buffers that a forward has changed, and that are not in the net's state dict."""
    in_state = {id(tensor) for tensor in net.state_dict(keep_vars=True).values()}
    outside = [name for name, buffer in net.named_buffers() if id(buffer) not in in_state]
    return [name for name in outside if not _are_equal(before[name], after[name])]


def _are_equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape and numbers, NaN in the same places."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
