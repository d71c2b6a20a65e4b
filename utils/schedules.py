"""How the learning rate changes over a run: what alpha is multiplied by in every iteration. Imports no torch."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from utils.files.text import counted

MOST_EPOCHS = 1_000_000
ADAPTIVE, COSINE = "adaptive", "cosine"
DROP = 0.1  # what a drop multiplies the learning rate by
PATIENCE = 3  # epochs without a new lowest training loss, after which "adaptive" drops
LOWEST_LR = 1e-6  # below which a run with "adaptive" ends
QUANTIZER_GROUP = "quantizer"  # name of an optimizer's group of a quantizer's own parameters, whose rate is not alpha
MILESTONES = re.compile(r"[1-9][0-9]{0,6}(,[1-9][0-9]{0,6})+")


@dataclass(frozen=True)
class Schedule:
    """The learning rate's schedule: --lr-adjust and --warmup as one value.

    adjust: 30, a drop (x 0.1) after every 30th epoch; "60,120,160", a drop after each of these epochs; "cosine", half a cosine
    from alpha to 0 over the epochs after the warm-up; "adaptive", drops that follow the training loss (AdaptiveDrops).
    warmup: epochs at the start over which the rate grows linearly to alpha, iteration by iteration.
    Schedule(30).factor(iteration=60, per_epoch=1) is 0.1**2.
    Raises ValueError for another adjust or warmup, and for a warm-up together with "adaptive" or with a drop before its end.
    """

    adjust: int | str
    warmup: int = 0

    def __post_init__(self):
        if self.adjust not in (ADAPTIVE, COSINE) and not self._valid_drops():
            raise ValueError(f"no schedule of the learning rate: {self.adjust!r}")
        if type(self.warmup) is not int or not 0 <= self.warmup <= MOST_EPOCHS:
            raise ValueError(f"no number of warm-up epochs: {self.warmup!r}")
        if self.warmup and self.follows_loss:
            raise ValueError(f"--warmup {self.warmup}: --lr-adjust {ADAPTIVE} cannot have a warm-up")
        if (first := self._first_drop()) and first < self.warmup:
            raise ValueError(f"--warmup {self.warmup}: by --lr-adjust {self.adjust} alpha drops after epoch {first} already")

    def _valid_drops(self) -> bool:
        if type(self.adjust) is int:
            return 1 <= self.adjust <= MOST_EPOCHS
        if not isinstance(self.adjust, str) or not MILESTONES.fullmatch(self.adjust):
            return False
        found = self.milestones
        return list(found) == sorted(set(found)) and found[-1] <= MOST_EPOCHS

    @property
    def milestones(self) -> tuple[int, ...]:
        """The epochs after which the rate drops, where they are listed; () for another schedule."""
        listed = isinstance(self.adjust, str) and self.adjust not in (ADAPTIVE, COSINE)
        return tuple(map(int, self.adjust.split(","))) if listed else ()

    @property
    def follows_loss(self) -> bool:
        """Whether the drops depend on the training loss, so that there is no factor by iteration."""
        return self.adjust == ADAPTIVE

    def _first_drop(self) -> int | None:
        return self.adjust if isinstance(self.adjust, int) else next(iter(self.milestones), None)

    def changes(self, epochs: int) -> bool:
        """Whether the rate may change during a run of so many epochs."""
        first = self._first_drop()
        return bool(self.warmup) or first is None or first < epochs

    def check(self, epochs: int) -> None:
        """Raises ValueError where a part of the schedule lies beyond the end of a run of so many epochs."""
        if self.milestones and self.milestones[-1] >= epochs:
            late = next(epoch for epoch in self.milestones if epoch >= epochs)
            raise ValueError(f"--lr-adjust {self.adjust}: no epoch comes after epoch {late} in a run of {epochs}")
        if self.warmup >= epochs:
            raise ValueError(f"--warmup {self.warmup}: must be shorter than the run, which has {counted(epochs, 'epoch')}")

    def factor(self, iteration: int, per_epoch: int, epochs: int = MOST_EPOCHS) -> float:
        """What the initial rate is multiplied by in an iteration (from 0).

        per_epoch: iterations of an epoch; epochs: of the run, which the cosine alone needs. Raises ValueError for "adaptive".
        """
        if self.follows_loss:
            raise ValueError(f"the schedule {ADAPTIVE} has no factor by iteration: it follows the training loss")
        warm = self.warmup * per_epoch
        if iteration < warm:
            return (iteration + 1) / warm
        if self.adjust == COSINE:
            return (1 + math.cos(math.pi * (iteration - warm) / (epochs * per_epoch - warm))) / 2
        epoch = iteration // per_epoch
        drops = epoch // self.adjust if isinstance(self.adjust, int) else sum(epoch >= after for after in self.milestones)
        return DROP**drops


@dataclass
class AdaptiveDrops:
    """The drops of the schedule "adaptive": one after every PATIENCE epochs without a new lowest training loss."""

    drops: int = 0
    epochs_without_progress: int = 0
    lowest_loss: float = math.inf

    def after_epoch(self, loss: float) -> float:
        """What the initial rate is multiplied by after one more epoch, which had this training loss."""
        self.epochs_without_progress = 0 if loss < self.lowest_loss else self.epochs_without_progress + 1
        self.lowest_loss = min(loss, self.lowest_loss)
        if self.epochs_without_progress == PATIENCE:
            self.drops += 1
            self.epochs_without_progress = 0
        return DROP**self.drops

    def state_dict(self) -> dict[str, float]:
        """The state by the names that checkpoints have for it."""
        return {f"_{entry.name}": getattr(self, entry.name) for entry in fields(self)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """From what `state_dict` gave, among other things."""
        return cls(**{entry.name: state[f"_{entry.name}"] for entry in fields(cls)})


def ends_the_run(optimizer: Any) -> bool:
    """Whether alpha is below LOWEST_LR, which ends a run with the schedule "adaptive"; of several groups' rates the largest.

    The rate of a quantizer's own parameters is no alpha.
    """
    alpha = max(group["lr"] for group in optimizer.param_groups if group.get("name") != QUANTIZER_GROUP)
    return alpha < LOWEST_LR * (1 - 1e-9)  # 1e-3 x 0.1 x 0.1 x 0.1 must not count as below 1e-6


def scale_rates(optimizers: Iterable[Any], factor: float) -> None:
    """Sets the rate of every parameter group to its initial one times a factor. optimizers: of torch.optim, or None."""
    for optimizer in optimizers:
        for group in optimizer.param_groups if optimizer is not None else ():
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * factor
