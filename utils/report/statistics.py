"""The paper's statistic over the trials of a cell. Needs numpy alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

NOT_FINITE = "not finite"  # in the place of a number, a verdict or a claim that NaN or an infinity leaves without a value
LAST = 10  # the paper averages the test accuracy over the last 10 epochs
STANDARD_ERRORS = 2  # of a mean over trials: how far the pictures' bars reach to either side


class Curves(Protocol):
    """What the statistic reads of a trial, a value per finished epoch. Accuracies: percent; val_acc, seconds: may be empty."""

    test_acc: np.ndarray
    val_acc: np.ndarray
    seconds: np.ndarray


@dataclass(frozen=True)
class Statistics:
    """Statistics of n trials of equal length. Accuracies are on the test set, in percent.

    mean, variance: of the last 10 epochs of all trials, pooled; the population variance. These are the printed numbers.
    best_mean, best_variance: mean and population variance, over the trials, of each trial's best epoch.
    final: mean over the trials of the last epoch.
    deviation: standard deviation, with n - 1 in the denominator, of the trials' means over their last 10 epochs; NaN if n = 1.
    best_val: mean over the trials of the best validation accuracy; NaN if a trial has no validation images.
    at_best_val: each trial's test accuracy at the first epoch with its best validation accuracy; empty likewise.
    seconds: median over all epochs of all trials; NaN if no epoch's time is known.
    """

    n: int
    mean: float
    variance: float
    best_mean: float
    best_variance: float
    final: float
    deviation: float
    seconds: float
    best_val: float
    at_best_val: tuple[float, ...]

    @property
    def standard_error(self) -> float:
        """Standard error of the mean, deviation / sqrt(n); NaN if n = 1."""
        return self.deviation / self.n**0.5


def trial_means(trials: Sequence[Curves]) -> np.ndarray:
    """Each trial's mean test accuracy over its last 10 epochs, percent."""
    return np.array([trial.test_acc[-LAST:].mean() for trial in trials])


def at_best_validation(trial: Curves) -> float:
    """A trial's test accuracy at the first epoch with the best validation accuracy, percent; NaN without validation."""
    return float(trial.test_acc[trial.val_acc.argmax()]) if len(trial.val_acc) else np.nan


def statistics(trials: Sequence[Curves]) -> Statistics:
    """The statistics of some trials. Raises ValueError if there are none, or if their lengths differ."""
    lengths = [len(trial.test_acc) for trial in trials]
    if len(set(lengths)) != 1 or not lengths[0]:
        raise ValueError(f"the statistics need trials of equal length, but these have {lengths} epochs")
    acc = np.stack([trial.test_acc for trial in trials])
    seconds = np.concatenate([trial.seconds for trial in trials])
    validated = all(len(trial.val_acc) for trial in trials)
    with np.errstate(invalid="ignore", over="ignore"):  # of accuracies that are not finite, which the numbers then show
        best, means = acc.max(axis=1), trial_means(trials)
        return Statistics(
            n=len(trials),
            mean=acc[:, -LAST:].mean(),
            variance=acc[:, -LAST:].var(),
            best_mean=best.mean(),
            best_variance=best.var(),
            final=acc[:, -1].mean(),
            deviation=means.std(ddof=1) if len(trials) > 1 else np.nan,
            seconds=float(np.median(seconds)) if len(seconds) else np.nan,
            best_val=float(np.mean([trial.val_acc.max() for trial in trials])) if validated else np.nan,
            at_best_val=tuple(map(at_best_validation, trials)) if validated else (),
        )
