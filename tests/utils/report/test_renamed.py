"""A run that exists under two names (--exp-spec) is one baseline, and one of the cells among which STE's best is chosen."""

import numpy as np
import pytest
from run_folders import DIGITS, make_trial, rows_of, settings_of

from utils.report.report import Report
from utils.report.trials import group_trials

LEARNED = DIGITS._replace(backward="MultiFC")


def trial(cell=DIGITS, number=1, test=60.0, **changes):
    """Two epochs with validation images."""
    settings = settings_of(cell, number, 2, validation=500, **{"init_lr": 1e-3, **changes})
    return make_trial([test, test], cell, number, settings=settings, val_acc=np.array([50.0, 1.0]))


def found(*trials):
    """Of the one learned cell: the baselines of its claims with their n, and how many cells of STE there are."""
    report = Report(list(trials), *group_trials(trials, lambda cell: None))
    claims = rows_of(report.markdown(), "Method minus baseline")
    (row,) = rows_of(report.markdown(), r"Does the learned gradient help\?")
    return [claim["n"] for claim in claims], row["of"]


@pytest.mark.parametrize("more", [{}, {"base_model": "a"}], ids=["base model by name", "by content"])
def test_equal_runs_with_two_names_count_once(more):
    def copy(name):
        return {"pretrained": f"/a copy for {name}.pth"} if more else {}

    learned = trial(LEARNED, **more)
    twice = [trial(exp_spec=name, **more | copy(name)) for name in (None, "again")]
    assert found(learned, *twice) == (["1, 1"], "1")
    second = trial(number=2, exp_spec="again", **more | copy("again"))
    assert found(learned, *twice, second) == (["1, 2"], "1")  # the name with more trials


def test_runs_that_differ_in_a_setting_beside_the_name_count_both():
    learned = trial(LEARNED, init_lr=1e-2)
    assert found(learned, trial(init_lr=1e-3, exp_spec="a"), trial(init_lr=1e-1, exp_spec="b")) == (["1, 1", "1, 1"], "2")
