"""Trials, which of them count together, and the paper's statistics over them."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.run.record import switched_on
from utils.run.settings import MAY_DIFFER
from utils.tables.cells import Cell

LAST = 10  # the epochs that the paper's statistic pools
FULL_PRECISION = "full precision"  # stands for the backward of a run without a quantizer
BASE_MODEL = "base_model"  # beside the settings: the SHA-256 of the file that the run began from
NO_VARIANT = {
    *MAY_DIFFER,
    BASE_MODEL,
    "trial",
    "seed",
    "epochs",
    "deterministic",
    "loader",
}  # may differ among trials of one mean


@dataclass(frozen=True, eq=False)
class Trial:
    """One run: its curves, a value per finished epoch, and what is known about it.

    test_acc, train_acc: percent; train_acc and train_loss: averages over the epoch. state: done, running or failed.
    settings: as in run.json, or {"folder": ...} for logs without a record. seconds: per epoch, NaN where not known.
    """

    cell: Cell
    number: int
    test_acc: np.ndarray
    train_loss: np.ndarray
    train_acc: np.ndarray
    source: Path
    state: str = "done"
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: np.ndarray = field(default_factory=lambda: np.empty(0))
    error: str = ""
    made_by: str = ""

    @property
    def epochs(self) -> int:
        return len(self.test_acc)

    @property
    def recorded(self) -> bool:
        """Whether its settings are known."""
        return "folder" not in self.settings

    @property
    def variant(self) -> str:
        """Its settings as one text, without those that are off, or may differ among the trials of one mean."""
        kept = {name: value for name, value in switched_on(self.settings).items() if name not in NO_VARIANT}
        if kept.get("pretrained"):
            kept["pretrained"] = Path(kept["pretrained"]).name  # the same base model lies elsewhere on another machine
        return json.dumps(kept, sort_keys=True)


@dataclass(frozen=True)
class Statistics:
    """What n trials of equal length came to, in percent (seconds: the median epoch, NaN where not known).

    mean, variance: of the test accuracies of the last 10 epochs of all trials, pooled, population variance: the printed numbers.
    best_mean, best_variance: over trials, of the best test accuracy of any epoch, population variance. final: mean of the last
    epoch. deviation: standard deviation over the trials' means of their last 10 epochs (n - 1 in the denominator; NaN if n = 1).
    """

    n: int
    mean: float
    variance: float
    best_mean: float
    best_variance: float
    final: float
    deviation: float
    seconds: float

    @property
    def standard_error(self) -> float:
        """Of the mean, from the spread of the trials' means; NaN if n = 1."""
        return self.deviation / self.n**0.5


def trial_means(trials: Sequence[Trial]) -> np.ndarray:
    """Each trial's mean test accuracy over its last 10 epochs, percent."""
    return np.array([trial.test_acc[-LAST:].mean() for trial in trials])


def statistics(trials: Sequence[Trial]) -> Statistics:
    """The paper's statistics. Raises ValueError for no trials, or trials of unequal length."""
    if len({trial.epochs for trial in trials}) != 1 or not trials[0].epochs:
        raise ValueError(f"trials of equal length are needed, not of {[trial.epochs for trial in trials]} epochs")
    acc = np.stack([trial.test_acc for trial in trials])
    best, means = acc.max(axis=1), trial_means(trials)
    seconds = np.concatenate([trial.seconds for trial in trials])
    return Statistics(
        n=len(trials),
        mean=acc[:, -LAST:].mean(),
        variance=acc[:, -LAST:].var(),
        best_mean=best.mean(),
        best_variance=best.var(),
        final=acc[:, -1].mean(),
        deviation=means.std(ddof=1) if len(trials) > 1 else np.nan,
        seconds=float(np.median(seconds)) if len(seconds) else np.nan,
    )


class LeftOut(NamedTuple):
    """A trial that is in no mean, and why; repeated: it is there twice, and the other one was taken."""

    trial: Trial
    reason: str
    repeated: bool = False


@dataclass(frozen=True, eq=False)
class Group:
    """The trials of a cell that count together: equal settings, equal length, all finished, each once.

    label: the settings that tell the group from the cell's other groups, or from the usual settings; "" where there are none.
    """

    cell: Cell
    label: str
    trials: tuple[Trial, ...]

    @property
    def statistics(self) -> Statistics:
        return statistics(self.trials)

    def __str__(self) -> str:
        return f"{self.cell} ({self.label})" if self.label else str(self.cell)


def group_trials(
    trials: Iterable[Trial], expected: Callable[[Cell], Mapping[str, Any] | None]
) -> tuple[list[Group], list[LeftOut]]:
    """The groups, by cell, and what is left out of them.

    expected: a cell's usual settings, epochs among them, from which a group's label names the deviations; None: there are none,
    and trials must have as many epochs as most of the cell's finished ones (the larger number of two equally frequent ones).
    """
    trials, variants = list(trials), defaultdict(lambda: defaultdict(list))
    base_models = defaultdict(set)
    for trial in trials:
        base_models[trial.cell].add(trial.settings.get(BASE_MODEL))
    for trial in trials:
        several = len(base_models[trial.cell] - {None}) > 1
        variants[trial.cell][_with_base_model(trial) if several else trial.variant].append(trial)
    groups, left_out = [], []
    for cell, by_variant in variants.items():
        usual = expected(cell) or {}
        labels = _labels(by_variant, usual)
        for variant, members in by_variant.items():
            counted, dropped = _select(members, usual.get("epochs"))
            left_out += dropped
            if counted:
                groups.append(Group(cell, labels[variant], tuple(counted)))
    return groups, left_out


def _with_base_model(trial: Trial) -> str:
    return json.dumps({**json.loads(trial.variant), BASE_MODEL: trial.settings.get(BASE_MODEL, "not recorded")}, sort_keys=True)


def _select(members: list[Trial], epochs: int | None) -> tuple[list[Trial], list[LeftOut]]:
    """Of trials with equal settings: those that count, by number, and the others."""
    once, left_out = {}, []
    for trial in sorted(members, key=lambda trial: (trial.state != "done", trial.epochs != epochs, -trial.epochs)):
        first = once.setdefault((trial.number, trial.settings.get("seed")), trial)
        if first is not trial:
            left_out.append(LeftOut(trial, f"the same trial as {first.source}, which is taken", repeated=True))
    done = [trial for trial in once.values() if trial.state == "done"]
    lengths = Counter(trial.epochs for trial in done)
    wanted = epochs or max(lengths, key=lambda length: (lengths[length], length), default=0)
    counted = []
    for trial in sorted(once.values(), key=lambda trial: (trial.number, str(trial.source))):
        planned = trial.settings.get("epochs", wanted)
        if trial.state != "done":
            why = f": {trial.error}" if trial.error else ""
            left_out.append(LeftOut(trial, f"{trial.state}, {trial.epochs} of {planned} epochs{why}"))
        elif trial.epochs != wanted or not wanted:
            left_out.append(LeftOut(trial, f"{trial.epochs} epochs, not {wanted}"))
        else:
            counted.append(trial)
    return counted, left_out


def _labels(variants: Iterable[str], usual: Mapping[str, Any]) -> dict[str, str]:
    """Variant -> the settings in which the cell's variants differ from one another or from the usual ones.

    Logs without a record are called so, and by their folder where there are several kinds of them.
    """
    settings = {variant: json.loads(variant) for variant in variants}
    recorded = [values for values in settings.values() if "folder" not in values]
    named = {*NO_VARIANT, "pretrained", "exp_spec"}  # the last two name a file and the run
    expected = {name: value for name, value in switched_on(usual).items() if name not in named}
    differing = []
    switches = [name for name, value in expected.items() if value is True]
    for name in sorted({*switches, *(name for values in recorded for name in values)}):
        found = {json.dumps(values.get(name)) for values in recorded}
        if name in usual and name not in named:
            found.add(json.dumps(expected.get(name)))
        if len(found) > 1:
            differing.append(name)

    def label(values: dict[str, Any]) -> str:
        if "folder" in values:
            return "no record" + (f": {values['folder']}" if len(settings) - len(recorded) > 1 else "")
        return ", ".join(f"{name} {'on' if values.get(name) is True else values.get(name, 'off')}" for name in differing)

    return {variant: label(values) for variant, values in settings.items()}
