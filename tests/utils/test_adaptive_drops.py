"""The schedule "adaptive" and its state, by the names that earlier checkpoints have for it."""

import math

import torch

from meta_utils.install import install_quantizer, parameter_groups
from meta_utils.SGD import SGD
from utils.quantizers.trained import LSQ
from utils.recorder import Recorder
from utils.schedules import DROP, LOWEST_LR, PATIENCE, AdaptiveDrops, ends_the_run

KEYS = ["_drops", "_epochs_without_progress", "_lowest_loss"]


def test_a_drop_follows_every_three_epochs_without_a_new_lowest_loss():
    schedule = AdaptiveDrops()
    factors = [schedule.after_epoch(loss) for loss in (3.0, 2.0, 2.5, 2.0, 1.9, *[2.0] * 6, math.nan, 1.0)]
    assert PATIENCE == 3
    assert factors == [DROP**drops for drops in (0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2)]


def test_its_state_goes_on_where_it_was():
    schedule = AdaptiveDrops()
    for loss in (3.0, 4.0, 4.0):
        schedule.after_epoch(loss)
    assert schedule.state_dict() == dict(zip(KEYS, (0, 2, 3.0), strict=True))
    resumed = AdaptiveDrops.from_state(schedule.state_dict() | {"stop": False})
    assert [each.after_epoch(5.0) for each in (schedule, resumed)] == [DROP, DROP]


def test_the_recorders_state_has_the_keys_of_earlier_checkpoints_in_their_order(tmp_path):
    with Recorder(tmp_path, validation=True) as recorder:
        recorder.update(loss=1.0, acc=50.0, batch_size=1)
        recorder.adjust_lr(torch.optim.SGD([torch.zeros(1)], lr=0.1), "adaptive", 0)
        state = recorder.state_dict()
        curves = ["iteration", "test_acc", "epoch_losses", "seconds_per_epoch", "stop"]
        assert [*state][:9] == [*curves, *KEYS, "val_acc"]
        assert [state[key] for key in KEYS] == [0, 0, 1.0]
    with Recorder(tmp_path, state=state, validation=True) as recorder:
        assert [recorder.state_dict()[key] for key in KEYS] == [0, 0, 1.0]


def test_three_drops_from_1e_3_do_not_end_a_run():
    alpha = torch.optim.SGD([torch.zeros(1)], lr=1e-3 * 0.1 * 0.1 * 0.1)
    assert not ends_the_run(alpha)
    alpha.param_groups[0]["lr"] = LOWEST_LR * 0.999
    assert ends_the_run(alpha)


def test_the_rate_of_a_quantizers_own_parameters_does_not_keep_a_run_going(tiny_net):
    install_quantizer(tiny_net, LSQ(2))
    optimizee = SGD(parameter_groups(tiny_net, quantizer_lr=0.1), lr=LOWEST_LR * 0.999)
    assert ends_the_run(optimizee)
    optimizee.param_groups[0]["lr"] = 2 * LOWEST_LR
    assert not ends_the_run(optimizee)


def test_the_rate_at_which_a_run_ends():
    assert LOWEST_LR == 1e-6
