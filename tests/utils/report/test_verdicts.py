"""Verdicts against numbers worked out by hand."""

import math
from statistics import variance

import numpy as np
import pytest
from run_folders import CELL, make_trial, settings_of
from scipy.stats import ttest_ind_from_stats

from utils.report.published import printed, published_settings
from utils.report.statistics import trial_means
from utils.report.trials import Group
from utils.report.verdicts import compare, differing_settings, paired, welch, welch_test

LEARNED = CELL._replace(backward="MultiFC")


def trials(*means, cell=CELL, **changes):
    """Trials whose ten epochs all have the given accuracy."""
    return tuple(
        make_trial([mean] * 10, cell, number, settings=settings_of(cell, number, **{"epochs": 10} | changes))
        for number, mean in enumerate(means, start=1)
    )


@pytest.mark.parametrize(("shift", "verdict"), [(4.6, "within"), (-4.6, "within"), (4.8, "above"), (-4.8, "below")])
def test_our_trials_against_the_logs_by_students_t(shift, verdict):
    """With 2.18 degrees of freedom, of which the 97.5 % quantile of Student's t is 3.976: times sqrt(4 / 3 + 1 / 16), 4.697."""
    logs = trials(80, 82, 84)  # s = 2, n = 3: s^2 / n = 4 / 3
    ours = trials(82 + shift - 0.25, 82 + shift + 0.25)  # s^2 = 1/8, n = 2: 1 / 16
    found = compare(ours, logs)
    assert found.difference == pytest.approx(shift)
    assert found.verdict == verdict
    assert found.p == welch(ours, logs).p


@pytest.mark.parametrize(("sizes", "most"), [((2, 2), 4), ((5, 2), 9), ((5, 3), 7), ((5, 5), 6)])
def test_ours_that_are_drawn_as_the_logs_are_nearly_always_within_them(sizes, most):
    """They are not 2.4, 6.5, 4.6 and 4.4 times of 100; beyond 2 standard errors they are 18.4, 15.1, 10.4 and 8.1 times."""
    random = np.random.default_rng(0)
    draws = [[trials(*random.normal(80, 1, size)) for size in sizes] for _ in range(1000)]
    outside = sum(compare(*sides).verdict != "within" for sides in draws)
    assert 10 <= outside <= 10 * most


def test_too_few_trials_no_spread_and_no_logs():
    two, one = trials(80, 82), trials(80)
    assert compare(one, two).verdict == compare(two, one).verdict == "too few trials"
    assert compare(trials(80, 80), trials(81, 81)).verdict == "no spread"
    assert compare(trials(80, 80), two).verdict == "within"
    assert compare(two, ()).verdict == "no logs"


def test_welch_against_a_worked_example():
    a, b = trials(27.5, 21.0, 19.0, 23.6, 17.0, 17.9), trials(27.1, 22.0, 20.8, 23.4, 23.4, 23.5)
    found = welch(a, b)
    assert found.difference == pytest.approx(21 - 23.3666667)
    variances = [variance([trial.test_acc[0] for trial in side]) for side in (a, b)]
    t = found.difference / math.sqrt(sum(variances) / 6)
    freedom = (sum(variances) / 6) ** 2 / (sum((v / 6) ** 2 for v in variances) / 5)
    x = np.linspace(-abs(t), abs(t), 10_001)
    density = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2) / math.sqrt(freedom * math.pi)  # of Student's t, times
    between = density * np.mean((1 + x**2 / freedom) ** (-(freedom + 1) / 2)) * (x[-1] - x[0])
    assert found.p == pytest.approx(1 - between, abs=1e-4)
    assert found.verdict == "level"


@pytest.mark.parametrize(("sizes", "shift"), [((2, 2), 0.1), ((5, 3), 0.0), ((5, 5), 1.0), ((3, 8), -20.0)])
def test_welch_is_scipys(sizes, shift):
    random = np.random.default_rng(sum(sizes))
    a, b = (trials(*(80 + random.normal(size=size) + offset)) for size, offset in zip(sizes, (shift, 0), strict=True))
    moments = [moment for side in map(trial_means, (a, b)) for moment in (side.mean(), side.std(ddof=1), len(side))]
    assert welch(a, b).p == pytest.approx(ttest_ind_from_stats(*moments, equal_var=False).pvalue, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize(
    ("learned", "ste", "verdict"),
    [
        ((90, 91, 92), (80, 81, 82), "higher"),
        ((80, 81, 82), (90, 91, 92), "lower"),
        ((80,), (90, 91, 92), "too few trials"),
        ((80, 80), (81, 81), "no spread"),
        ((80, 80), (80, 81), "level"),
    ],
)
def test_claims(learned, ste, verdict):
    assert welch(trials(*learned), trials(*ste)).verdict == verdict


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("others", [(), (81,), (81, 82)])
def test_not_finite_is_a_verdict_and_a_claim_of_its_own(wrong, others, tally):
    odd, fine = trials(*others, wrong), trials(80, 82)
    nothing = (pytest.approx(math.nan, nan_ok=True),) * 2
    assert compare(odd, fine) == compare(fine, odd) == (*nothing, "not finite")
    assert compare(odd, ()).verdict == "no logs"
    assert welch(odd, fine) == welch(fine, odd) == welch(odd, odd) == (*nothing, "not finite")
    tally("accuracy that is not finite among trials: no verdict, no claim", 5)


def test_an_early_epoch_that_is_not_finite_is_in_no_mean_of_the_last_ones():
    odd = [make_trial([math.nan] + [mean] * 10) for mean in (80, 82)]
    fine = [make_trial([50] + [mean] * 10) for mean in (80, 82)]
    assert compare(odd, fine).verdict == "within"
    assert welch(odd, fine).verdict == "level"


def pairs(*groups, published=lambda cell: None):
    found = paired(groups, published)
    assert {id(group) for group, _ in found.alone}.isdisjoint(id(group) for group, _ in found.pairs)
    return [(str(group), str(baseline)) for group, baseline in found.pairs]


def test_pairs_are_of_one_net_quantizer_and_optimizer():
    groups = [Group(cell, "", trials(80, cell=cell)) for cell in (CELL, LEARNED, LEARNED._replace(optimizer="Adam"))]
    assert pairs(*groups) == [(str(LEARNED), str(CELL))]
    assert paired(groups, lambda cell: None).alone == [(groups[2], ())]


def test_a_learned_gradient_has_every_fixed_one_as_a_baseline_and_a_fixed_one_ste():
    names = ["STE", "EDE", "ProxQuant", "MultiFC", "FC-Grad"]
    groups = [Group(CELL._replace(backward=name), "", trials(80)) for name in names]
    found = {(group.cell.backward, other.cell.backward) for group, other in paired(groups, lambda cell: None).pairs}
    learned = {(method, baseline) for method in ("MultiFC", "FC-Grad") for baseline in ("STE", "EDE", "ProxQuant")}
    assert found == learned | {("EDE", "STE"), ("ProxQuant", "STE")}


@pytest.mark.parametrize(
    "changes",
    [
        {"bits": 2},
        {"epochs": 20},
        {"pretrained": "none", "base_model": None},
        {"base_model": "b"},
        {"data_digest": "b"},
        {"keep": ["fc"]},
        {"validation": 200},
        {"precision": "bf16"},
        {"label_smoothing": 0.1},
        {"clip": 1.0},
        {"lr_adjust": 60},
        {"warmup": 1},
        {"batch_size": 64},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_baseline_that_is_not_alike_is_none(changes):
    known = {"data_digest": "a", "base_model": "a", "batch_size": 128}
    learned = Group(LEARNED, "", trials(80, cell=LEARNED, **known))
    unlike = Group(CELL, "unlike", trials(60, **known | changes))
    assert paired([learned, unlike], lambda cell: None) == ([], [(learned, tuple(changes)[:1])])
    assert pairs(learned, unlike, Group(CELL, "", trials(60, **known))) == [(str(learned), str(CELL))]


def test_of_several_baselines_the_closest_counts():
    rates = [Group(CELL, f"{rate:g}", trials(60, init_lr=rate, weight_decay=0.0)) for rate in (1e-1, 1e-2, 1e-4)]
    learned = Group(LEARNED, "", trials(80, cell=LEARNED, init_lr=2e-3, weight_decay=5e-4))
    assert pairs(learned, *rates) == [(str(LEARNED), f"{CELL} (0.01)")]
    same = Group(CELL, "same", trials(60, init_lr=2e-3, weight_decay=0.0))
    assert pairs(learned, *rates, same) == [(str(LEARNED), f"{CELL} (same)")]


def test_the_published_cells_are_compared_as_they_were_published():
    """In one block STE's schedule is another one."""
    found = [(one, other) for one in printed() for other in printed() if one.block == other.block and other.backward == "STE"]
    unlike = [pair for pair in found if len({published_settings(cell)["lr_adjust"] for cell in pair}) == 2]
    assert unlike
    for learned, ste in unlike:
        groups = [Group(cell, "", (make_trial([80], cell, settings=published_settings(cell)),)) for cell in (learned, ste)]
        assert pairs(*groups, published=published_settings) == [(str(learned), str(ste))]
        assert pairs(*groups) == []


def test_every_differing_setting_is_listed_and_only_those():
    ste = Group(CELL, "", trials(80, 81))
    assert differing_settings(Group(LEARNED, "", trials(80, 81, 82, cell=LEARNED, exp_spec="mine", data_root="/d")), ste) == []
    other = trials(80, 81, cell=LEARNED, weight_decay=5e-4, lr_adjust="adaptive", pretrained="none", bits=2)
    assert differing_settings(Group(LEARNED, "", other), ste) == [
        ("bits", "2", "1"),
        ("lr_adjust", "adaptive", "30"),
        ("pretrained", "none", "Results/ResNet20.pth"),
        ("weight_decay", "0.0005", "0.0"),
    ]


def test_layers_in_full_precision_are_a_difference_between_a_method_and_its_baseline():
    ste, off = Group(CELL, "", trials(80)), Group(CELL, "", trials(80, keep=[]))
    kept = Group(LEARNED, "", trials(80, cell=LEARNED, keep=["conv1", "fc"]))
    assert differing_settings(kept, ste) == differing_settings(kept, off) == [("keep", "conv1 fc", "off")]
    assert differing_settings(Group(LEARNED, "", trials(80, cell=LEARNED, keep=[])), ste) == []


def test_a_setting_that_one_side_lacks_and_settings_without_a_record():
    ste = Group(CELL, "", trials(80))
    assert differing_settings(Group(LEARNED, "", trials(80, cell=LEARNED, warm_up=5)), ste) == [("warm_up", "5", "off")]
    bare = Group(LEARNED, "", (make_trial([80] * 10, LEARNED, settings={"folder": "x"}),))
    assert differing_settings(bare, ste) == [("all settings", "not recorded", "recorded")]
    shorter = Group(LEARNED, "", (make_trial([70, 80], LEARNED, settings={"folder": "x"}),))
    assert differing_settings(shorter, ste) == [("all settings", "not recorded", "recorded"), ("epochs", "2", "10")]
    assert paired([ste, shorter], lambda cell: None).pairs == []
    assert paired([ste, shorter], lambda cell: None).alone == [(shorter, ("epochs",))]


def test_data_are_compared_by_content_and_not_by_path():
    def group(cell, path, **digests):
        return Group(cell, "", trials(80, cell=cell, dataset=path, **digests))

    ste = group(CELL, "NPZ:/a/set.npz", data_digest="a", program="a", pretrained="/a/base.pth")
    moved = group(LEARNED, "NPZ:/b/set.npz", data_digest="a", program="c", pretrained="/b/base.pth")
    assert differing_settings(moved, ste) == []
    renamed = group(LEARNED, "NPZ:/b/set.npz", data_digest="a", pretrained="/b/copy.pth")
    assert differing_settings(renamed, ste) == [("pretrained", "/b/copy.pth", "/a/base.pth")]
    same = [group(cell, "NPZ:/b/set.npz", pretrained=f"/{name}.pth", base_model="a") for cell, name in ((LEARNED, 1), (CELL, 2))]
    assert differing_settings(*same) == []
    assert differing_settings(group(LEARNED, "NPZ:/a/set.npz", pretrained="/a/base.pth"), ste) == []  # an old record
    other = group(LEARNED, "NPZ:/a/set.npz", data_digest="b", pretrained="/a/base.pth")
    assert differing_settings(other, ste) == [("data_digest", "b", "a")]


def test_a_spread_too_small_to_be_squared_is_none():
    assert welch_test([0.0, 1e-90], [0.0, 1e-90]).verdict == "no spread"
