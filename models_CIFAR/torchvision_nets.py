"""The classifiers of torchvision.models, for 32x32 images."""

from collections.abc import Callable
from difflib import get_close_matches
from inspect import signature

import torchvision
from torch import nn
from torchvision import models

OPTIONS = {  # given to the classes that take them
    "image_size": 32,  # the vision transformers' position embedding has this size
    "aux_logits": False,  # googlenet, inception_v3: logits alone, without the auxiliary heads
    "init_weights": True,  # their default, which torchvision warns of where it is not given
}


def torchvision_net(name: str) -> Callable[[int], nn.Module]:
    """(num_classes) -> the classifier of that name as torchvision builds it, at random: (B, 3, 32, 32) -> (B, num_classes).

    Raises ValueError, naming the closest ones, where torchvision has no such classifier.
    """
    known = models.list_models(module=models)
    if name not in known:
        closest = ", ".join(get_close_matches(name.lower(), known, n=3, cutoff=0)) or "none"
        raise ValueError(
            f"unknown net torchvision:{name}: torchvision {torchvision.__version__} has no classifier of this name; "
            f"closest: {closest}"
        )
    builder = models.get_model_builder(name)
    taken = signature(signature(builder).return_annotation).parameters  # of the class; the builder itself takes anything
    options = {option: value for option, value in OPTIONS.items() if option in taken}

    def build(num_classes: int) -> nn.Module:
        return builder(weights=None, num_classes=num_classes, **options)

    return build
