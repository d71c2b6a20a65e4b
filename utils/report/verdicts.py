"""Verdicts: our trials against the logged ones, methods against their baselines, and the settings in which those differ."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.choices import ESTIMATORS, PROXIMAL, STE
from utils.report.statistics import NOT_FINITE, Statistics, trial_means
from utils.report.trials import FULL_PRECISION, Group, Trial
from utils.run.identity import CONTENTS, PROGRAM, in_words
from utils.run.settings import LEARNED_DEFAULTS, MAY_DIFFER, META_OPTIONS

LEVEL = 0.05  # of significance: no difference is shown if p is at least this
STANDARD_ERRORS = 2
TOO_FEW = "too few trials"
DEFINES_THE_METHOD = {"backward", PROGRAM, *META_OPTIONS, *LEARNED_DEFAULTS}
NAMES_THE_RUN = {"trial", "exp_spec", *MAY_DIFFER}


class Comparison(NamedTuple):
    """Our mean minus the logs' mean, in percentage points, with the standard error of that difference; NaN where unknown.

    verdict: within, above or below (see `compare`), "no logs", "too few trials", or "not finite" where an accuracy is not.
    """

    difference: float
    standard_error: float
    verdict: str


def compare(ours: Statistics, logs: Statistics | None) -> Comparison:
    """Whether our mean lies within 2 standard errors of the logs' mean, or above or below that range.

    The standard error of the difference is sqrt(s_ours^2 / n_ours + s_logs^2 / n_logs), where s is the standard deviation (n - 1)
    over the trials' means of their last 10 epochs. Both sides therefore need at least two trials.
    """
    if logs is None:
        return Comparison(np.nan, np.nan, "no logs")
    difference = ours.mean - logs.mean
    if not np.isfinite([difference, ours.variance, logs.variance]).all():
        return Comparison(np.nan, np.nan, NOT_FINITE)
    if ours.n < 2 or logs.n < 2:
        return Comparison(difference, np.nan, TOO_FEW)
    error = float(np.hypot(ours.standard_error, logs.standard_error))
    if abs(difference) <= STANDARD_ERRORS * error:
        return Comparison(difference, error, "within")
    return Comparison(difference, error, "above" if difference > 0 else "below")


class Claim(NamedTuple):
    """A learned gradient's mean minus STE's, in percentage points, with the p-value of Welch's test; NaN where there is none.

    verdict: higher, lower or level (see `welch`), "too few trials", "no spread", or "not finite" where an accuracy is not.
    """

    difference: float
    p: float
    verdict: str


def welch(learned: Sequence[Trial], ste: Sequence[Trial]) -> Claim:
    """Whether a learned gradient ends higher or lower than STE: `welch_test` on the trials' means."""
    return welch_test(trial_means(learned), trial_means(ste))


def welch_test(learned: Sequence[float], ste: Sequence[float]) -> Claim:
    """Whether a learned gradient's values, one per trial, are higher or lower than STE's: Welch's two-sided t-test, 5 % level.

    t = difference / sqrt(v_a + v_b) with v = s^2 / n; degrees of freedom (v_a + v_b)^2 / (v_a^2 / (n_a - 1) + v_b^2 / (n_b - 1)).
    """
    a, b = np.asarray(learned, dtype=float), np.asarray(ste, dtype=float)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = float(a.mean() - b.mean())
        if not np.isfinite([difference, a.var(), b.var()]).all():
            return Claim(np.nan, np.nan, NOT_FINITE)
    if min(len(a), len(b)) < 2:
        return Claim(difference, np.nan, TOO_FEW)
    if np.ptp(a) == np.ptp(b) == 0:
        return Claim(difference, np.nan, "no spread")
    from scipy.special import stdtr  # scipy.stats has this test, but takes three times as long to import

    v_a, v_b = (side.var(ddof=1) / len(side) for side in (a, b))
    freedom = (v_a + v_b) ** 2 / (v_a**2 / (len(a) - 1) + v_b**2 / (len(b) - 1))
    p = float(2 * stdtr(freedom, -abs(difference) / np.sqrt(v_a + v_b)))
    if p >= LEVEL:
        return Claim(difference, p, "level")
    return Claim(difference, p, "higher" if difference > 0 else "lower")


def pairs(groups: Iterable[Group]) -> list[tuple[Group, Group]]:
    """Groups with their baselines of the same net, data set, quantizer and optimizer.

    The baselines of a learned gradient are all groups without one, those of another method are STE's.
    """
    groups = [group for group in groups if group.cell.backward != FULL_PRECISION]
    fixed = {*ESTIMATORS, *PROXIMAL}

    def is_baseline(other: Group, group: Group) -> bool:
        baselines = {STE} - {group.cell.backward} if group.cell.backward in fixed else fixed
        return other.cell.backward in baselines and other.cell.block == group.cell.block

    return [(group, other) for group in groups for other in groups if is_baseline(other, group)]


class SettingDifference(NamedTuple):
    """A setting in which a method's group and its baseline's differ, with the values that their trials have."""

    setting: str
    method_value: str
    baseline_value: str


def differing_settings(group: Group, baseline: Group) -> list[SettingDifference]:
    """Every setting in which two groups differ, apart from those that define the method or name the run.

    If a trial on either side has no record, the one entry says so. Data and base models that are not recorded are no difference.
    """
    sides = [list(group.trials), list(baseline.trials)]
    recorded = [all(trial.recorded for trial in side) for side in sides]
    if not all(recorded):
        return [SettingDifference("all settings", *("recorded" if known else "not recorded" for known in recorded))]
    names = {name for side in sides for trial in side for name in trial.settings} - DEFINES_THE_METHOD - NAMES_THE_RUN
    found = []
    for name in sorted(names):
        values = [_values(side, name) for side in sides]
        unknown = name in CONTENTS and not all(values)
        moved = name == "pretrained" and len({Path(value).name for value in values}) == 1
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
