"""A cell of the paper's tables, by what identifies it."""

from typing import NamedTuple

FULL_PRECISION = "full precision"  # the backward of a run without a quantizer


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

    @property
    def net(self) -> str:
        """Net and data set, as tables name them: ResNet20 CIFAR10."""
        return f"{self.model} {self.dataset}"

    @property
    def method(self) -> str:
        """Quantizer, optimizer and gradient through the quantizer, as tables name them: dorefa SGD STE; or "full precision"."""
        return FULL_PRECISION if self.backward == FULL_PRECISION else f"{self.quantizer} {self.optimizer} {self.backward}"

    def __str__(self) -> str:
        return f"{self.net} {self.method}"
