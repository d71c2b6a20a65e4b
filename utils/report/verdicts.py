"""Verdicts: our trials against the logged ones, methods against their baselines, and the settings in which those differ."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.choices import STE
from utils.report.compared import DEFINES_THE_METHOD, FROM_BASELINE, NOT_RECORDED, WHO_AND_WHERE
from utils.report.labels import OTHER_FORM
from utils.report.statistics import NOT_FINITE, trial_means
from utils.report.trials import Group, Trial, without_renamed
from utils.run.identity import BASE_MODEL, CONTENTS, in_words
from utils.tables.cells import FULL_PRECISION, Cell

LEVEL = 0.05  # of significance: no difference is shown if p is at least this
P_NOTE = f"level: p >= {LEVEL:g}, no difference is shown"
TOO_FEW = "too few trials"
NO_LOGS = "no logs"
AGAINST_LOGS = {"level": "within", "higher": "above", "lower": "below"}  # `welch_test`'s words -> those of a verdict on the logs


class Comparison(NamedTuple):
    """One side's mean minus another's, in percentage points, with the p-value of Welch's test; NaN where there is none.

    verdict: a word for p and the sign of the difference (see `welch_test` and `compare`); "too few trials", "no spread", or
    "not finite" where an accuracy is NaN or infinite.
    """

    difference: float
    p: float
    verdict: str


def compare(ours: Sequence[Trial], logs: Sequence[Trial]) -> Comparison:
    """Our trials against the logged ones, by `welch`: "within" if no difference is shown, else "above" or "below".

    "no logs" if none is logged.
    """
    if not logs:
        return Comparison(np.nan, np.nan, NO_LOGS)
    found = welch(ours, logs)
    return found._replace(verdict=AGAINST_LOGS.get(found.verdict, found.verdict))


def welch(ours: Sequence[Trial], others: Sequence[Trial]) -> Comparison:
    """Whether trials end higher or lower than others: `welch_test` on their mean test accuracies over the last 10 epochs."""
    return welch_test(trial_means(ours), trial_means(others))


def welch_test(ours: Sequence[float], others: Sequence[float]) -> Comparison:
    """Whether values, one per trial, are "higher" or "lower" than others, else "level": Welch's two-sided t-test, 5 % level.

    t = difference / sqrt(v_a + v_b) with v = s^2 / n; degrees of freedom (v_a + v_b)^2 / (v_a^2 / (n_a - 1) + v_b^2 / (n_b - 1)).
    """
    a, b = np.asarray(ours, dtype=float), np.asarray(others, dtype=float)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = float(a.mean() - b.mean())
        if not np.isfinite([difference, a.var(), b.var()]).all():
            return Comparison(np.nan, np.nan, NOT_FINITE)
    if min(len(a), len(b)) < 2:
        return Comparison(difference, np.nan, TOO_FEW)
    if np.ptp(a) == np.ptp(b) == 0:
        return Comparison(difference, np.nan, "no spread")
    from scipy.special import stdtr  # scipy.stats has this test, but takes three times as long to import

    v_a, v_b = (side.var(ddof=1) / len(side) for side in (a, b))
    if not ((v_a + v_b) ** 2):  # below the smallest number
        return Comparison(difference, np.nan, "no spread")
    freedom = (v_a + v_b) ** 2 / (v_a**2 / (len(a) - 1) + v_b**2 / (len(b) - 1))
    p = float(2 * stdtr(freedom, -abs(difference) / np.sqrt(v_a + v_b)))
    if p >= LEVEL:
        return Comparison(difference, p, "level")
    return Comparison(difference, p, "higher" if difference > 0 else "lower")


class Paired(NamedTuple):
    """Methods with the baselines they are compared with, and those that have none: with the settings that prevent a comparison
    with the closest baseline, or () where there is no run of a baseline at all.
    """

    pairs: list[tuple[Group, Group]]
    alone: list[tuple[Group, tuple[str, ...]]]


def paired(groups: Iterable[Group], published: Callable[[Cell], Mapping[str, Any] | None]) -> Paired:
    """Each method with its closest comparable baseline of every kind.

    The baselines of a learned gradient are all that are not learned, those of another method are STE's, with the same net, data
    set, quantizer and optimizer. They are comparable if they are alike in all settings but FROM_BASELINE, and those
    that differ as they do among the published runs (settings by `published`). Of several of one kind those count that differ in
    the fewest settings, of these the ones with the closest learning rate, and of equal runs with two names one. A side without a
    record is taken to be alike, unless its folder's name is not as those of the published runs or its length differs.
    """
    groups = [group for group in groups if group.cell.backward != FULL_PRECISION]
    found = Paired([], [])
    for group in groups:
        if group.cell.backward == STE:
            continue
        same_block = [other for other in groups if other.cell.block == group.cell.block and _is_baseline(other, group)]
        differing = {id(other): unlike_settings(group, other, published) for other in same_block}
        comparable = [other for other in same_block if not differing[id(other)]]
        distance = {id(other): (len(differing_settings(group, other)), _ratio_of_rates(group, other)) for other in comparable}
        for kind in dict.fromkeys(other.cell.backward for other in comparable):
            of_kind = [other for other in comparable if other.cell.backward == kind]
            least = min(distance[id(other)] for other in of_kind)
            closest = [other for other in of_kind if distance[id(other)] == least]
            found.pairs.extend((group, other) for other in without_renamed(closest))
        if not comparable:
            found.alone.append((group, min(differing.values(), key=len, default=())))
    return found


def _is_baseline(other: Group, group: Group) -> bool:
    return not other.is_learned if group.is_learned else other.cell.backward == STE


def _ratio_of_rates(group: Group, other: Group) -> float:
    """|log| of the ratio of two learning rates; 0 where one is not known."""
    rates = [side.trials[0].settings.get("init_lr") for side in (group, other)]
    known = all(isinstance(rate, (int, float)) and rate > 0 for rate in rates)
    return abs(math.log(rates[0] / rates[1])) if known else 0.0


def unlike_settings(group: Group, baseline: Group, published: Callable[[Cell], Mapping[str, Any] | None]) -> tuple[str, ...]:
    """The settings that prevent a comparison of a method with a baseline."""
    usual = [published(side.cell) or {} for side in (group, baseline)]

    def as_published(difference: SettingDifference) -> bool:
        values = [_text("off" if (value := side.get(difference.setting)) is None else value) for side in usual]
        return bool(usual[0] and usual[1]) and values == [difference.method_value, difference.baseline_value]

    differences = [one for one in differing_settings(group, baseline) if one.setting not in FROM_BASELINE]
    return tuple(one.setting for one in differences if not as_published(one))


class SettingDifference(NamedTuple):
    """A setting in which a method's group and its baseline's differ, with the values that their trials have."""

    setting: str
    method_value: str
    baseline_value: str


def differing_settings(group: Group, baseline: Group) -> list[SettingDifference]:
    """Every setting in which two groups differ, apart from those that define the method or name the run.

    If a trial on either side has no record, one entry says so, one if one side's folder has a name that is not as those of the
    published runs, and one if the numbers of epochs differ. Data and base models that are not recorded are no difference.
    """
    sides = [list(group.trials), list(baseline.trials)]
    recorded = [all(trial.recorded for trial in side) for side in sides]
    if not all(recorded):
        known = {
            NOT_RECORDED: ["recorded" if known else "not recorded" for known in recorded],
            OTHER_FORM: [_values(side, OTHER_FORM) for side in sides],
            "epochs": [str(one.epochs) for one in (group, baseline)],
        }
        return [SettingDifference(name, *v) for name, v in known.items() if name == NOT_RECORDED or v[0] != v[1]]
    base_models = [_values(side, BASE_MODEL) for side in sides]
    same_base_model = bool(base_models[0]) and base_models[0] == base_models[1]
    names = {name for side in sides for trial in side for name in trial.settings} - DEFINES_THE_METHOD - WHO_AND_WHERE
    found = []
    for name in sorted(names):
        values = [_values(side, name) for side in sides]
        unknown = name in CONTENTS and not all(values)
        moved = name == "pretrained" and (same_base_model or len({Path(value).name for value in values}) == 1)
        if values[0] != values[1] and not unknown and not moved:
            found.append(SettingDifference(name, *values))
    return found


def _values(trials: Iterable[Trial], name: str) -> str:
    """The values that the trials have, each once; of digests, those that are recorded."""
    if name in CONTENTS:
        trials = [trial for trial in trials if trial.settings.get(name)]
    return ", ".join(sorted({_text(trial.enabled_settings.get(name, "off")) for trial in trials}))


def _text(value: Any) -> str:
    return in_words(value) if isinstance(value, (str, list)) else json.dumps(value)
