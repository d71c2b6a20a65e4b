"""Trials, and which of them are averaged together."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.choices import RESIDENT
from utils.files.text import counted
from utils.report.compared import IN_A_MEAN
from utils.report.labels import NAMES_THE_RUN, labels
from utils.report.layers import LayerTable
from utils.report.methods import is_learned
from utils.report.statistics import Statistics, statistics
from utils.run.common_settings import MAY_DIFFER
from utils.run.identity import BASE_MODEL, CONTENTS, PHI, switched_on
from utils.run.paths import dataset_label
from utils.tables.cells import Cell

UNFINISHED = "unfinished"  # what the report calls a run that its record calls running: it may have been interrupted


@dataclass(frozen=True, eq=False)
class Trial:
    """One run: its curves, with a value per finished epoch, and what is known about it.

    test_acc, train_acc, val_acc: percent; val_acc is empty without validation. train_acc and train_loss are averages over the
    epoch. state: done, running or failed; error: why it failed, or ended before its last epoch.
    settings: as in run.json, and the first digits of the digests that the run's record has (CONTENTS). For logs without a record
    {"folder": ...}, and OTHER_FORM (labels.py) if the folder's name is not as those of the published runs. seconds: per epoch;
    empty if unknown. layers: what its layers.csv says, if there is one.
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
    val_acc: np.ndarray = field(default_factory=lambda: np.empty(0))
    layers: LayerTable | None = None

    @property
    def flipped(self) -> np.ndarray:
        """Percent of all quantized weights that flipped, per finished epoch; NaN where it is not known."""
        return 100 * self._mean_of_layers("flipped")

    @property
    def cosine(self) -> np.ndarray:
        """Mean over the layers, weighted by their weights, of the cosine between g_W and STE's g_W; as `flipped`."""
        return self._mean_of_layers("cosine")

    def _mean_of_layers(self, column: str) -> np.ndarray:
        return self.layers.mean(column) if self.layers else np.full(self.epochs, np.nan)

    @property
    def epochs(self) -> int:
        """The number of finished epochs."""
        return len(self.test_acc)

    @property
    def state_in_words(self) -> str:
        """done, failed or unfinished."""
        return UNFINISHED if self.state == "running" else self.state

    @property
    def validated(self) -> bool:
        """Whether it has validation images."""
        return bool(len(self.val_acc) or self.settings.get("validation"))

    @property
    def draws(self) -> tuple[int, Any, str]:
        """What its random draws depend on: number, seed and loader. Trials of a group with the same draws are the same trial."""
        return self.number, self.settings.get("seed"), self.settings.get("loader", RESIDENT)

    @property
    def recorded(self) -> bool:
        """Whether its settings are known."""
        return "folder" not in self.settings

    @property
    def enabled_settings(self) -> dict[str, Any]:
        """Its settings without those that are off, so that a flag added later does not separate older runs from newer ones."""
        return switched_on(self.settings | self._dataset)

    @property
    def portable_settings(self) -> dict[str, Any]:
        """Its settings without paths and device: the base model and the run that M is from by their names without folders."""
        portable = {name: value for name, value in self.settings.items() if name not in MAY_DIFFER} | self._dataset
        for name in ("pretrained", "phi"):
            if portable.get(name):
                portable[name] = Path(portable[name]).name
        return portable

    @property
    def _dataset(self) -> dict[str, str]:
        """The data set by its name without its path."""
        dataset = self.settings.get("dataset")
        return {"dataset": dataset_label(dataset)} if isinstance(dataset, str) else {}

    @property
    def grouping_key(self) -> str:
        """The settings that must be equal for trials to be averaged, as JSON."""
        compared = switched_on(self.portable_settings)
        if PHI in self.settings and "phi" in compared:
            compared["phi"] = True  # what it is, its digest says
        return json.dumps({k: v for k, v in compared.items() if k not in IN_A_MEAN}, sort_keys=True)


class LeftOut(NamedTuple):
    """A trial that is in no mean, and the reason.

    repeated: the same trial was found a second time, and the other is counted. label: as its group's would be.
    """

    trial: Trial
    reason: str
    repeated: bool = False
    label: str = ""


@dataclass(frozen=True, eq=False)
class Group:
    """Trials of a cell that are averaged: equal settings, equal length, all finished, each once.

    label: the settings in which this group differs from the usual ones; "" if there are none.
    """

    cell: Cell
    label: str
    trials: tuple[Trial, ...]

    @property
    def epochs(self) -> int:
        """The number of epochs of each trial."""
        return self.trials[0].epochs

    @property
    def is_learned(self) -> bool:
        """Whether the gradient of its trials is learned by an M."""
        return is_learned(self.cell.backward, self.trials[0].settings)

    @property
    def statistics(self) -> Statistics:
        """The paper's statistic of the group's trials."""
        return statistics(self.trials)

    @property
    def key_without_name(self) -> str:
        """What tells it from other groups, as JSON, without the name that --exp-spec gives its runs."""
        settings = json.loads(self.trials[0].grouping_key)
        contents = {name: sorted({str(trial.settings.get(name)) for trial in self.trials}) for name in CONTENTS}
        unnamed = {name: value for name, value in settings.items() if name != NAMES_THE_RUN}
        if self.trials[0].settings.get(BASE_MODEL):
            unnamed.pop("pretrained", None)  # what it is, its digest says
        return json.dumps([self.cell, self.epochs, unnamed, contents], sort_keys=True)

    def __str__(self) -> str:
        return f"{self.cell} ({self.label})" if self.label else str(self.cell)


def without_renamed(groups: Iterable[Group]) -> list[Group]:
    """Of several groups that differ in the runs' names alone, the one with the most trials, and the first of these."""
    found: dict[str, Group] = {}
    for group in groups:
        key = group.key_without_name
        if key not in found or len(group.trials) > len(found[key].trials):
            found[key] = group
    return list(found.values())


def group_trials(
    trials: Iterable[Trial], usual_settings: Callable[[Cell], Mapping[str, Any] | None]
) -> tuple[list[Group], list[LeftOut]]:
    """The groups, by cell, and the trials that are in none of them.

    usual_settings: the usual settings of a cell, or None; a group's label names its deviations from them, or from the defaults.
    Of the runs with the usual number of epochs, and of logs without a record, a trial counts if it has them all. Of others, which
    may have ended early, it counts if it has as many as most finished ones of its group (of two equally frequent numbers the
    larger one).
    """
    trials, by_cell = list(trials), defaultdict(lambda: defaultdict(list))
    digests = defaultdict(set)
    for trial in trials:
        for name in CONTENTS:
            digests[trial.cell, name].add(trial.settings.get(name))
    name_of = _base_model_names(trials)
    for trial in trials:
        several = [name for name in CONTENTS if len(digests[trial.cell, name] - {None}) > 1]
        compared = json.loads(trial.grouping_key) | {name: trial.settings.get(name, "not recorded") for name in several}
        if (key := (trial.cell, trial.settings.get(BASE_MODEL))) in name_of:
            compared["pretrained"] = name_of[key]
        by_cell[trial.cell][json.dumps(compared, sort_keys=True)].append(trial)
    groups, left_out = [], []
    for cell, by_key in by_cell.items():
        usual = usual_settings(cell) or {}
        label_of = labels(by_key, usual)
        for key, members in by_key.items():
            averaged, excluded = _select(members, usual.get("epochs"))
            left_out += [left._replace(label=label_of[key]) for left in excluded]
            if averaged:
                groups.append(Group(cell, label_of[key], tuple(averaged)))
    return groups, left_out


def _base_model_names(trials: Iterable[Trial]) -> dict[tuple[Cell, str], str]:
    """A cell and a base model's digest -> one name, whatever its copies are called: one that a trial without a digest has, or the
    first in the alphabet.
    """
    names, undigested = defaultdict(set), defaultdict(set)
    for trial in trials:
        if name := trial.portable_settings.get("pretrained"):
            digest = trial.settings.get(BASE_MODEL)
            (names[trial.cell, digest] if digest else undigested[trial.cell]).add(name)
    return {key: min(found, key=lambda name, cell=key[0]: (name not in undigested[cell], name)) for key, found in names.items()}


def _select(members: Sequence[Trial], usual: int | None) -> tuple[list[Trial], list[LeftOut]]:
    """Of trials with equal settings: those that are averaged, by number, and the others with the reason.

    usual: the number of epochs that is usual for their cell.
    """
    epochs = usual if members[0].settings.get("epochs", usual) == usual else None
    unique, left_out = {}, []
    for trial in sorted(members, key=lambda trial: (trial.state != "done", trial.epochs != epochs, -trial.epochs)):
        first = unique.setdefault(trial.draws, trial)
        if first is not trial:
            left_out.append(LeftOut(trial, f"the same trial as {first.source}, which is counted", repeated=True))
    lengths = Counter(trial.epochs for trial in unique.values() if trial.state == "done")
    wanted = epochs or max(lengths, key=lambda length: (lengths[length], length), default=0)
    averaged = []
    for trial in sorted(unique.values(), key=lambda trial: (trial.number, str(trial.source))):
        planned = trial.settings.get("epochs") or wanted
        why = f": {trial.error}" if trial.error else ""
        if trial.state != "done":
            left_out.append(LeftOut(trial, f"{trial.state_in_words}, {trial.epochs} of {counted(planned, 'epoch')}{why}"))
        elif trial.epochs != wanted or not wanted:
            left_out.append(LeftOut(trial, f"{counted(trial.epochs, 'epoch')}, not {wanted}{why}"))
        else:
            averaged.append(trial)
    return averaged, left_out
