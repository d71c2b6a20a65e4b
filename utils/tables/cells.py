"""A cell of the paper's tables, by what identifies it."""

from typing import NamedTuple


class Cell(NamedTuple):
    """What one number of a table stands for; names as main.py takes them (ResNet20, CIFAR10, dorefa, FC-Grad, Adam)."""

    model: str
    dataset: str
    quantizer: str
    backward: str
    optimizer: str

    @property
    def block(self) -> tuple[str, str, str, str]:
        """Net, data set, quantizer and optimizer: the methods of a block are compared with one another."""
        return (*self[:3], self.optimizer)

    def __str__(self) -> str:
        return " ".join(self)
