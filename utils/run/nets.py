"""A net by its name: made for the data's classes, and tried on images before a run begins."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

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
    nor the state of the random generators. Raises BadInput, naming the net, for a net that cannot be made or take them.
    """
    check_net_name(model)
    with failures_of(f"-m {model}: this net cannot be made for {SIZE}x{SIZE} images and {num_classes} classes"):
        net = MODELS.load(model)(num_classes=num_classes)
    for training in (False, True):
        with failures_of(f"-m {model}: this net cannot take {SIZE}x{SIZE} images"):
            logits = _outputs(net, 2, training)
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if shape != (2, num_classes):
            mode = " in training" if training else ""
            raise BadInput(f"-m {model}: for 2 images this net must return logits of shape {(2, num_classes)}{mode}, not {shape}")
    if one_image:
        advice = "choose another -bs/--batch-size, or leave out the last one with --drop-last"
        with failures_of(f"-m {model}: this net cannot train on a batch of one image, which an epoch has here: {advice}"):
            _outputs(net, 1, training=True)
    return net


@torch.no_grad()
def _outputs(net: nn.Module, images: int, training: bool) -> Tensor:
    """What the net makes of some images; leaves no trace in it or in the random generators."""
    states = random_states()
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    try:
        with in_mode(net, training):
            return functional_call(net, buffers, (torch.zeros(images, 3, SIZE, SIZE),))
    finally:
        restore_random_states(states)
