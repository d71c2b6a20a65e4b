"""What the nets of this folder share: the check of their number of classes, and how layers before a ReLU are initialised."""

from collections.abc import Iterable

from torch import nn


def require_classes(num_classes: int) -> None:
    """Raises ValueError for fewer than two classes."""
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, not {num_classes}")


def initialise(layers: Iterable[nn.Conv2d | nn.Linear]) -> None:
    """He et al.'s initialisation, fan out, of layers that a ReLU follows."""
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
