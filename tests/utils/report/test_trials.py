"""The paper's statistics, and which trials count together."""

import statistics as by_hand
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_folders import CELL, DIGITS, LEARNED, make_run, make_trial, settings_of

from utils.report.csv_files import read_csv, write_csv
from utils.report.reading import find_trials
from utils.report.statistics import statistics
from utils.report.trials import group_trials

PERCENT = st.floats(0, 100, allow_nan=False)


@given(
    st.integers(1, 15).flatmap(
        lambda epochs: st.lists(st.lists(PERCENT, min_size=epochs, max_size=epochs), min_size=1, max_size=5)
    )
)
def test_statistics_against_the_standard_librarys(curves):
    found = statistics([make_trial(curve, number=k) for k, curve in enumerate(curves)])
    pooled = [value for curve in curves for value in curve[-10:]]
    best, means = [max(curve) for curve in curves], [by_hand.fmean(curve[-10:]) for curve in curves]
    close = {"rel": 1e-9, "abs": 1e-6}
    assert found.n == len(curves)
    assert found.mean == pytest.approx(by_hand.fmean(pooled), **close)
    assert found.variance == pytest.approx(by_hand.pvariance(pooled), **close)
    assert found.best_mean == pytest.approx(by_hand.fmean(best), **close)
    assert found.best_variance == pytest.approx(by_hand.pvariance(best), **close)
    assert found.final == pytest.approx(by_hand.fmean(curve[-1] for curve in curves), **close)
    if len(curves) > 1:
        assert found.deviation == pytest.approx(by_hand.stdev(means), **close)
        assert found.standard_error == pytest.approx(by_hand.stdev(means) / len(curves) ** 0.5, **close)
    else:
        assert found.deviation != found.deviation


@pytest.mark.parametrize("lengths", [(), (0,), (3, 4)])
def test_unequal_lengths_are_never_averaged(lengths):
    with pytest.raises(ValueError, match="equal length"):
        statistics([make_trial([1.0] * length, number=k) for k, length in enumerate(lengths)])


def groups_of(*trials, **usual):
    groups, left_out = group_trials(trials, lambda cell: usual)
    return groups, [(left.trial.number, left.reason) for left in left_out]


def test_unfinished_and_unequal_runs_are_left_out_with_the_reason():
    trials = [
        make_trial([60, 61, 62]),
        make_trial([60, 61, 63], number=2),
        make_trial([60, 61, 62, 63], number=3, settings=settings_of(CELL, 3, 3)),
        make_trial([60], number=4, state="running", settings=settings_of(CELL, 4, 3)),
        make_trial([], number=5, state="failed", error="the loss is nan", settings=settings_of(CELL, 5, 3)),
    ]
    (group,), left_out = groups_of(*trials)
    assert ([trial.number for trial in group.trials], group.epochs) == ([1, 2], 3)
    assert left_out == [
        (3, "4 epochs, not 3"),
        (4, "unfinished, 1 of 3 epochs"),
        (5, "failed, 0 of 3 epochs: the loss is nan"),
    ]


def test_runs_that_ended_before_the_usual_number_of_epochs_are_left_out():
    early = make_trial([60, 61], settings=settings_of(CELL, epochs=3), error="alpha fell")
    assert groups_of(early, epochs=3) == ([], [(1, "2 epochs, not 3: alpha fell")])
    assert groups_of(make_trial([60, 61], settings={"folder": "a"}), epochs=3) == ([], [(1, "2 epochs, not 3")])
    for usual in ({}, {"epochs": 100}):
        (group,), left_out = groups_of(early, **usual)
        assert (group.epochs, left_out) == (2, [])


def test_runs_of_other_numbers_of_epochs_are_other_groups():
    short, long = make_trial([60, 61]), make_trial([60, 61, 62], number=2)
    for usual, labels in (
        ({}, ["epochs 2", "epochs 3"]),
        ({"epochs": 3}, ["epochs 2", ""]),
        ({"epochs": 9}, ["epochs 2", "epochs 3"]),
    ):
        groups, left_out = groups_of(short, long, **usual)
        assert ([group.label for group in groups], [group.epochs for group in groups], left_out) == (labels, [2, 3], [])
    (group,), _ = groups_of(short)
    assert group.label == ""


def test_the_same_trial_twice_counts_once_and_the_finished_one():
    cut = make_trial([60], source="a", state="running", settings=settings_of(CELL, epochs=2))
    whole, again = make_trial([60, 61], source="b"), make_trial([70, 71], source="c")
    other_seed = make_trial([50, 51], source="d", settings=settings_of(CELL, epochs=2, seed=1))
    (group,), left_out = groups_of(cut, whole, again, other_seed)
    assert [str(trial.source) for trial in group.trials] == ["b", "d"]
    assert left_out == [(1, "the same trial as b, which is counted")] * 2


def test_trials_of_several_machines_are_one_group():
    there = settings_of(CELL, 2, 2, pretrained="/home/x/ResNet20.pth", data_root="/data")
    (group,), left_out = groups_of(make_trial([60, 61]), make_trial([60, 61], number=2, settings=there))
    assert (len(group.trials), group.label, left_out) == (2, "", [])


def test_other_settings_are_another_group_and_named():
    slow = settings_of(CELL, 1, 2, lr_adjust=60)
    groups, left_out = groups_of(make_trial([60, 61]), make_trial([60, 62], settings=slow), make_trial([60, 62], cell=DIGITS))
    assert [str(group) for group in groups] == [str(CELL), f"{CELL} (lr_adjust 60)", str(DIGITS)]
    assert left_out == []


def test_settings_other_than_the_usual_ones_are_named():
    usual = {"lr_adjust": 30, "bits": 1, "unheard_of": 1, "pretrained": "elsewhere.pth"}
    (group,), _ = groups_of(make_trial([60, 61], settings=settings_of(CELL, epochs=2, bits=2)), **usual)
    assert group.label == "bits 2"
    groups, _ = groups_of(make_trial([60, 61]), make_trial([60, 61], settings=settings_of(CELL, epochs=2, bits=2)), **usual)
    assert [group.label for group in groups] == ["", "bits 2"]


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({"pretrained": "none"}, "from scratch"),
        ({"pretrained": "R/runs-Quant/Baseline-LSQ-trial-1", "base_model": "a"}, "from Baseline-LSQ-trial-1"),
        ({"pretrained": "elsewhere/base.pth", "init_lr": 1e-3, "exp_spec": "mine", "bits": 1}, ""),
        ({"quantizer": "LSQ", "bits": 2, "init_lr": 0.3, "clip": 1.0}, "bits 2, clip 1.0, init_lr 0.3"),
        ({"quantizer": "TTQ", "bits": 2}, ""),
        ({"quantizer": "of my own", "bits": 3}, "bits 3"),
        ({"lr_adjust": "cosine", "warmup": 1, "validation": 200}, "lr_adjust cosine, validation 200, warmup 1"),
        ({"label_smoothing": 0.1, "batch_size": 64}, "batch_size 64, label_smoothing 0.1"),
        ({"backward": "MultiFC", "meta_lr": 3e-3, "hidden_size": 100, "num_fc": 3}, "meta_lr 0.003"),
        ({"optimizer": "Adam", "weight_decay": 0.0, "bias_corrected_eps": True}, ""),
        ({"optimizer": "Adam", "backward": "FC-Grad", "meta_lr": 1e-3, "weight_decay": 0.0}, "weight_decay 0.0"),
    ],
)
def test_a_label_names_what_is_not_the_default_whatever_other_runs_there_are(changes, label):
    """Of a run in a mean and of an unfinished one."""
    cell = DIGITS._replace(**{name: value for name, value in changes.items() if name in DIGITS._fields})
    settings = settings_of(cell, epochs=2) | dict.fromkeys(LEARNED) | changes
    trials = make_trial([1, 2], cell, settings=settings), make_trial([1], cell, 2, settings=settings, state="running")
    (group,), (left,) = group_trials(trials, lambda cell: None)
    assert (group.label, left.label) == (label, label)


def test_what_has_no_usual_value_is_named_where_labels_would_be_the_same():
    def labels(*changes):
        return [
            group.label
            for group in groups_of(*(make_trial([1], settings=settings_of(epochs=1, cell=CELL) | c) for c in changes))[0]
        ]

    assert labels({"exp_spec": "mine"}, {"lr_adjust": 60}) == ["", "lr_adjust 60"]
    assert labels({"exp_spec": "mine"}, {}, {"lr_adjust": 60}) == ["exp_spec mine", "", "lr_adjust 60"]
    sweep = [{"momentum": m, "exp_spec": f"grid-momentum-{m}"} for m in (0.5, 0.9)]
    assert labels(*sweep) == ["momentum 0.5", "momentum 0.9"]
    assert labels(*sweep, sweep[0] | {"exp_spec": "mine"})[::2] == [
        "exp_spec grid-momentum-0.5, momentum 0.5",
        "exp_spec mine, momentum 0.5",
    ]
    assert labels({"pretrained": "none"}, {"pretrained": "a.pth", "base_model": "a"}) == ["from scratch", ""]
    two = {"pretrained": "x/a.pth", "base_model": "1"}, {"pretrained": "x/b.pth", "base_model": "2"}
    assert labels(*two) == ["base_model 1, from a.pth", "base_model 2, from b.pth"]


def test_logs_without_a_record_are_a_group_of_their_own():
    old = [make_trial([60, 61], number=k, settings={"folder": "Baseline"}) for k in (1, 2)]
    groups, _ = groups_of(make_trial([60, 61]), *old)
    assert [(group.label, len(group.trials)) for group in groups] == [("", 1), ("no record", 2)]
    groups, _ = groups_of(*old, make_trial([60, 61], settings={"folder": "x.csv"}))
    assert [group.label for group in groups] == ["no record: Baseline", "no record: x.csv"]


def test_a_switch_that_came_later_and_is_off_makes_no_other_group():
    old = settings_of(CELL, 1, 3)
    new = settings_of(CELL, 2, 3) | {"newer": False}
    on = settings_of(CELL, 3, 3) | {"newer": True}
    trials = [make_trial([1, 2, 3], number=k, settings=s) for k, s in enumerate((old, new, on), start=1)]
    groups, _ = group_trials(trials, lambda cell: None)
    assert [(group.label, [trial.number for trial in group.trials]) for group in groups] == [
        ("newer off", [1, 2]),
        ("newer on", [3]),
    ]
    (group,), _ = group_trials(trials[:2], lambda cell: {"epochs": 3, "newer": True})
    assert group.label == "newer off"


def test_layers_in_full_precision_are_named_even_where_all_runs_have_them():
    def trial(number, *keep, cell=CELL):
        return make_trial([1, 2, 3], cell, number, settings=settings_of(cell, number, 3) | {"keep": [*keep]})

    old = make_trial([1, 2, 3], number=4, settings=settings_of(CELL, 4, 3))
    groups, _ = group_trials([trial(1), trial(2, "conv1", "fc"), trial(3, "fc"), old], lambda cell: None)
    assert {group.label: [trial.number for trial in group.trials] for group in groups} == {
        "": [1, 4],
        "keep conv1 fc": [2],
        "keep fc": [3],
    }
    for usual in ({}, {"epochs": 3, "keep": []}):
        (group,), _ = group_trials([trial(1, "fc")], lambda cell, usual=usual: usual)
        assert group.label == "keep fc"
        (group,), _ = group_trials([trial(1), old], lambda cell, usual=usual: usual)
        assert group.label == ""


def test_runs_of_another_precision_are_never_averaged_with_others(tmp_path):
    """As recorded now, by an earlier version (tf32, on or off), and in a CSV file of either; named wherever it is not float32."""
    for number, own in enumerate(({"precision": "float32"}, {"tf32": False}, {}, {"precision": "bf16"}, {"tf32": True}), start=1):
        make_run(tmp_path / "R" / str(number), DIGITS, number, settings=settings_of(DIGITS, number, **own))
    runs, problems = find_trials([tmp_path / "R"])
    write_csv(runs, tmp_path / "runs.csv")
    assert problems == []
    for trials in (runs, read_csv(tmp_path / "runs.csv")):
        groups, _ = group_trials(trials, lambda cell: None)
        assert {group.label: [trial.number for trial in group.trials] for group in groups} == {
            "": [1, 2, 3],
            "precision bf16": [4],
            "precision tf32": [5],
        }
        labels = [group_trials(trials[first:end], lambda cell: None)[0][0].label for first, end in ((0, 3), (3, 4))]
        assert labels == ["", "precision bf16"]


def test_base_models_tell_trials_apart_where_several_are_known():
    records = [
        settings_of(CELL, k, 3) | ({"base_model": base} if base else {}) for k, base in enumerate(("a", "a", None, "b"), 1)
    ]
    trials = [make_trial([1, 2, 3], number=k, settings=record) for k, record in enumerate(records, 1)]
    (group,), _ = group_trials(trials[:3], lambda cell: None)
    assert (group.label, len(group.trials)) == ("", 3)
    groups, _ = group_trials(trials, lambda cell: None)
    assert {group.label: [trial.number for trial in group.trials] for group in groups} == {
        "base_model a": [1, 2],
        "base_model not recorded": [3],
        "base_model b": [4],
    }


def test_a_base_model_is_known_by_its_digest_and_not_by_its_name():
    def trial(number, name, digest):
        base = {"pretrained": f"/home/{number}/{name}.pth"} | ({"base_model": digest} if digest else {})
        return make_trial([1, 2, 3], number=number, settings=settings_of(CELL, number, 3) | base)

    def numbers(*trials):
        return [[trial.number for trial in group.trials] for group in group_trials(trials, lambda cell: None)[0]]

    assert numbers(trial(1, "released", "a"), trial(2, "renamed", "a")) == [[1, 2]]
    assert numbers(trial(1, "released", "a"), trial(2, "renamed", "b")) == [[1], [2]]
    assert numbers(trial(1, "released", None), trial(2, "renamed", None)) == [[1], [2]]  # earlier records have no digest
    three = trial(1, "a-copy", "a"), trial(2, "released", "a"), trial(3, "released", None)
    for order in permutations(three):
        assert numbers(*order) == [[1, 2, 3]]


def test_trials_of_two_loaders_have_other_draws_and_both_count():
    trials = [
        make_trial([1, 2, 3], source=str(k), settings=settings_of(CELL, 1, 3, **loader))
        for k, loader in enumerate(({"loader": "torchvision"}, {"loader": "resident"}, {}))  # an earlier record has none
    ]
    (group,), left_out = groups_of(*trials)
    assert [str(trial.source) for trial in group.trials] == ["0", "1"]
    assert left_out == [(1, "the same trial as 1, which is counted")]


def test_data_and_programs_tell_trials_apart_by_content_and_not_by_path():
    def trial(number, **changes):
        settings = settings_of(CELL, number, 3) | changes
        return make_trial([1, 2, 3], number=number, settings=settings)

    def labels(*trials):
        return [(group.label, [trial.number for trial in group.trials]) for group in group_trials(trials, lambda cell: None)[0]]

    moved = trial(1, dataset="NPZ:/a/set.npz", data_digest="a"), trial(2, dataset="NPZ:/b/set.npz", data_digest="a")
    assert labels(*moved) == [("", [1, 2])]
    assert labels(*moved, trial(3, dataset="NPZ:/c/set.npz")) == [("", [1, 2, 3])]  # an old record
    assert labels(*moved, trial(3, dataset="NPZ:/a/set.npz", data_digest="b")) == [
        ("data_digest a", [1, 2]),
        ("data_digest b", [3]),
    ]
    assert labels(trial(1, program="a"), trial(2, program="c")) == [("program a", [1]), ("program c", [2])]
    assert labels(trial(1), trial(2, program="c")) == [("", [1, 2])]  # by main.py, and by a program of one's own
    assert "/a/" not in str(moved[0].portable_settings)


def test_the_seconds_of_an_epoch_are_the_median_over_all_trials():
    trials = [make_trial([1.0, 2.0, 3.0], number=k, seconds=np.array(each)) for k, each in enumerate(([9.0, 1, 2], [2.0, 3, 90]))]
    assert statistics(trials).seconds == 2.5
