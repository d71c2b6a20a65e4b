"""Schedules of the learning rate: the factor of every iteration, what is refused, and `Recorder.adjust_lr`."""

import math
from dataclasses import FrozenInstanceError

import pytest
import torch

from utils.recorder import Recorder
from utils.schedules import Schedule, scale_rates

PER_EPOCH = 4


def factors(schedule, epochs):
    return [schedule.factor(t, PER_EPOCH, epochs) for t in range(epochs * PER_EPOCH)]


def test_drops_after_every_nth_epoch_and_after_each_milestone():
    for adjust, drops in ((2, [0, 0, 1, 1, 2, 2, 3]), ("2,3,6", [0, 0, 1, 2, 2, 2, 3])):
        assert factors(Schedule(adjust), 7) == [0.1**n for n in drops for _ in range(PER_EPOCH)]
    assert Schedule("60,120,160").milestones == (60, 120, 160)
    assert Schedule(30).milestones == Schedule("cosine").milestones == ()


def test_half_a_cosine_over_the_run():
    """As torch's CosineAnnealingLR has it, stepped after every iteration."""
    epochs = 3
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * PER_EPOCH)
    found = factors(Schedule("cosine"), epochs)
    for factor in found:
        assert factor == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        theirs.step()
    assert found[0] == 1
    assert found == sorted(set(found), reverse=True)
    assert Schedule("cosine").factor(epochs * PER_EPOCH, PER_EPOCH, epochs) == 0


@pytest.mark.parametrize("adjust", [2, "3,4", "cosine"])
def test_a_warm_up_is_linear_and_reaches_alpha(adjust):
    plain, warm = factors(Schedule(adjust), 6), factors(Schedule(adjust, warmup=2), 6)
    assert warm[: 2 * PER_EPOCH] == [(t + 1) / (2 * PER_EPOCH) for t in range(2 * PER_EPOCH)]
    if adjust == "cosine":
        assert warm[2 * PER_EPOCH :] == factors(Schedule("cosine"), 4)
    else:
        assert warm[2 * PER_EPOCH :] == plain[2 * PER_EPOCH :]


@pytest.mark.parametrize(
    "adjust",
    [0, -1, True, 1.5, None, "", "30", "30,", "30,20", "30,30", "030,60", "30, 60", "linear", "1,9999999", (30, 60), 10**9],
)
def test_what_is_no_schedule_is_refused(adjust):
    with pytest.raises(ValueError, match="no schedule"):
        Schedule(adjust)


def test_a_warm_up_that_does_not_go_with_the_rest_is_refused():
    for adjust, warmup, words in (
        ("adaptive", 1, "adaptive cannot have a warm-up"),
        (2, 3, "after epoch 2 already"),
        ("4,8", 5, "after epoch 4 already"),
        (30, -1, "no number"),
        (30, 1.0, "no number"),
    ):
        with pytest.raises(ValueError, match=words):
            Schedule(adjust, warmup)
    assert Schedule(2, 2).factor(2 * PER_EPOCH - 1, PER_EPOCH) == 1


def test_what_lies_beyond_the_run_is_refused():
    for schedule, words in (
        (Schedule("3,6,9"), "no epoch comes after epoch 6 in a run of 6"),
        (Schedule("cosine", 6), "--warmup 6: must be shorter than the run, which has 6 epochs"),
    ):
        with pytest.raises(ValueError, match=words):
            schedule.check(6)
    for schedule in (Schedule("3,5"), Schedule("cosine", 5), Schedule(30), Schedule("adaptive")):
        schedule.check(6)


def test_the_adaptive_schedule_has_no_factor_and_none_changes():
    with pytest.raises(ValueError, match="follows the training loss"):
        Schedule("adaptive").factor(0, PER_EPOCH)
    with pytest.raises(FrozenInstanceError):
        Schedule(30).warmup = 3
    assert Schedule(30) == Schedule(30, 0) != Schedule(30, 1)


def test_rates_are_scaled_from_their_initial_values():
    parameters = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [p], "lr": lr} for p, lr in zip(parameters, (0.5, 0.25), strict=True)])
    for factor in (0.1, math.pi / 4, 1.0):
        scale_rates((optimizer, None), factor)
        assert [group["lr"] for group in optimizer.param_groups] == [0.5 * factor, 0.25 * factor]


def optimizer(lr=1e-3):
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)


def test_step_schedule(tmp_path):
    with Recorder(tmp_path) as recorder:
        alpha, gamma = optimizer(), optimizer(0.5)
        lrs = []
        for epoch in range(100):
            lrs.append(alpha.param_groups[0]["lr"])
            recorder.adjust_lr(alpha, 30, epoch)
            assert not recorder.stop
        assert lrs == pytest.approx([1e-3] * 30 + [1e-4] * 30 + [1e-5] * 30 + [1e-6] * 10)
        assert gamma.param_groups[0]["lr"] == 0.5
        recorder.adjust_lr(alpha, 30, 119, meta_optimizer=gamma)
        assert alpha.param_groups[0]["lr"] == pytest.approx(1e-7)
        assert not recorder.stop
        assert gamma.param_groups[0]["lr"] == pytest.approx(0.5e-4)


def test_the_other_schedules(tmp_path):
    alpha = optimizer()
    with Recorder(tmp_path, epochs=4) as recorder:
        for adjust, factors in (
            ("2,3", [1, 0.1, 0.01]),
            ("30", [1, 1, 1]),
            (2.0, [1, 0.1, 0.1]),
            ("cosine", [0.853553, 0.5, 0.146447]),
        ):
            for epoch, factor in enumerate(factors):
                recorder.adjust_lr(alpha, adjust, epoch)
                assert alpha.param_groups[0]["lr"] == pytest.approx(1e-3 * factor, rel=1e-5)
        for adjust in ("3,2", "linear", 0):
            with pytest.raises(ValueError, match="no schedule of the learning rate"):
                recorder.adjust_lr(alpha, adjust, 0)
    with Recorder(tmp_path) as recorder, pytest.raises(ValueError, match="needs the number of epochs"):
        recorder.adjust_lr(alpha, "cosine", 0)


def test_adaptive_schedule(tmp_path):
    """A drop after 3 epochs without a new lowest training loss."""
    losses = [3, 2, 2.5, 2, 1.9, 2, 2, 2, 2, 2, 2, 1]
    expected = [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2]
    with Recorder(tmp_path) as recorder:
        alpha = optimizer()
        for epoch, (loss, drops) in enumerate(zip(losses, expected, strict=True)):
            recorder.reset_performance()
            recorder.update(loss=loss, acc=0.0, batch_size=1, cur_lr=1e-3)
            recorder.adjust_lr(alpha, "adaptive", epoch)
            assert alpha.param_groups[0]["lr"] == pytest.approx(1e-3 * 0.1**drops)


def test_the_adaptive_schedule_stops_below_1e_6(tmp_path):
    with Recorder(tmp_path) as recorder:
        parameters = [torch.zeros(1, requires_grad=True) for _ in range(3)]
        groups = [{"params": [p], "lr": lr} for p, lr in zip(parameters, (0.0, 1e-4, 1e-5), strict=True)]  # one is frozen
        alpha = torch.optim.SGD(groups)
        found = []
        for epoch in range(10):
            recorder.reset_performance()
            recorder.update(loss=1.0, acc=0.0, batch_size=1)
            recorder.adjust_lr(alpha, "adaptive", epoch)
            found.append(recorder.stop)
        assert alpha.param_groups[1]["lr"] == pytest.approx(1e-7)
        assert found == [False] * 9 + [True]  # dropped after epochs 4, 7 and 10
        recorder.adjust_lr(alpha, 1, 20)
        assert not recorder.stop
