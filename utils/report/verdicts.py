"""Verdicts: ours against the logged trials, the learned gradient against STE, and whether the two were run alike."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from utils.report.trials import BASE_MODEL, FULL_PRECISION, Group, Statistics, Trial, trial_means
from utils.run.record import switched_on
from utils.run.settings import LEARNED_DEFAULTS, MAY_DIFFER, META_OPTIONS

LEVEL = 0.05  # a p-value from here on: no difference shown
STANDARD_ERRORS = 2
TOO_FEW = "too few trials"
DEFINES_THE_METHOD = {"backward", *META_OPTIONS, *LEARNED_DEFAULTS}
NAMES_THE_RUN = {"trial", "exp_spec", *MAY_DIFFER}


class Comparison(NamedTuple):
    """Ours minus the logs'. difference: of the means, percentage points; standard_error: of the difference; NaN where unknown."""

    difference: float
    standard_error: float
    verdict: str


def compare(ours: Statistics, logs: Statistics | None) -> Comparison:
    """Whether our mean lies within 2 standard errors of the logs' mean, above or below.

    The standard error of the difference is sqrt(s_ours^2 / n_ours + s_logs^2 / n_logs), where s is the standard deviation (n - 1)
    over the trials' means of their last 10 epochs; so both sides need two trials.
    """
    if logs is None:
        return Comparison(np.nan, np.nan, "no logs")
    difference = ours.mean - logs.mean
    if ours.n < 2 or logs.n < 2:
        return Comparison(difference, np.nan, TOO_FEW)
    error = float(np.hypot(ours.standard_error, logs.standard_error))
    if abs(difference) <= STANDARD_ERRORS * error:
        return Comparison(difference, error, "within")
    return Comparison(difference, error, "above" if difference > 0 else "below")


class Claim(NamedTuple):
    """Learned gradient minus STE, percentage points; p: Welch's two-sided test on the trials' means, NaN where there is none."""

    difference: float
    p: float
    verdict: str


def welch(learned: Sequence[Trial], ste: Sequence[Trial]) -> Claim:
    """Whether the trials with a learned gradient end higher or lower than STE's, at the 5 % level."""
    from scipy.stats import ttest_ind_from_stats

    a, b = trial_means(learned), trial_means(ste)
    difference = float(a.mean() - b.mean())
    if min(len(a), len(b)) < 2:
        return Claim(difference, np.nan, TOO_FEW)
    if np.ptp(a) == np.ptp(b) == 0:
        return Claim(difference, np.nan, "no spread")
    moments = (moment for side in (a, b) for moment in (side.mean(), side.std(ddof=1), len(side)))
    p = float(ttest_ind_from_stats(*moments, equal_var=False).pvalue)
    if p >= LEVEL:
        return Claim(difference, p, "level")
    return Claim(difference, p, "higher" if difference > 0 else "lower")


def pairs(groups: Iterable[Group]) -> list[tuple[Group, Group]]:
    """Every group with a learned gradient beside every STE group of the same net, data set, quantizer and optimizer."""
    groups = list(groups)
    learned = [group for group in groups if group.cell.backward not in ("STE", FULL_PRECISION)]
    return [(group, ste) for group in learned for ste in groups if ste.cell == group.cell._replace(backward="STE")]


def unlike(group: Group, baseline: Group) -> list[tuple[str, str, str]]:
    """Every setting in which the two differ, apart from those that define the method or name the run: (setting, its, baseline's).

    A setting's value is what the group's trials have, each value once. Without a record on either side the one entry says so.
    """
    sides = [list(group.trials), list(baseline.trials)]
    if not all(trial.recorded for side in sides for trial in side):
        return [("all settings", *("recorded" if all(trial.recorded for trial in side) else "not recorded" for side in sides))]
    names = {name for side in sides for trial in side for name in trial.settings} - DEFINES_THE_METHOD - NAMES_THE_RUN
    values = [(name, *(_values(side, name) for side in sides)) for name in sorted(names)]
    unknown = {name for name, *sides in values if name == BASE_MODEL and "off" in sides}  # not recorded
    return [(name, theirs, its) for name, theirs, its in values if theirs != its and name not in unknown]


def _values(trials: Iterable[Trial], name: str) -> str:
    return ", ".join(sorted({_text(switched_on(trial.settings).get(name, "off")) for trial in trials}))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
