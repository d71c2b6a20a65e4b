"""Captured iterations follow a schedule: they read the learning rates from the device."""

import numpy as np
import pytest
import torch
from tape import Tape
from training_loops import CASES, COSINE, SCHEDULED_EPOCHS, WITH_PARAMETERS, Spy, case_id, numbers, scheduled, train_scheduled

from meta_utils.capture import CudaGraphs
from utils.schedules import Schedule

SCHEDULED = [
    *((COSINE, case) for case in (CASES[1], CASES[3], WITH_PARAMETERS[1])),
    (Schedule("1,2"), CASES[0]),
    (Schedule(1, warmup=1), CASES[2]),
]


@pytest.mark.parametrize(
    ("schedule", "case"), SCHEDULED, ids=lambda x: str(x.adjust) if isinstance(x, Schedule) else "-".join(x[:4])
)
def test_a_schedule_needs_one_capture_for_each_size_of_a_batch(schedule, case):
    """Rates are read from the device, whatever they are in an iteration; the eager ones are numbers, as ever."""
    tape = Tape()
    eager, captured = scheduled(case, schedule, on_device=False), scheduled(case, schedule, tape)
    found = [train_scheduled(work) for work in (eager, captured)]
    np.testing.assert_allclose(*found, rtol=1e-9)
    factors = [schedule.factor(t, 4, SCHEDULED_EPOCHS) for t in range(12)]
    assert [measured.lr for measured in found[1]] == [1e-3 * factor for factor in factors]
    assert len({*factors}) >= 3
    for ours, theirs in zip(numbers(eager), numbers(captured), strict=True):
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-9, atol=1e-9)
    assert (tape.captures, tape.replays) == (2, 8)
    state = captured.loop.state_dict()
    rates = [group["lr"] for part in ("optimizee", "meta_optimizer") for group in state[part].get("param_groups", ())]
    assert {*map(type, rates)} == {float}  # a checkpoint is the same, wherever the rates are read


@pytest.mark.parametrize("order", ["notebook", "paper"])
def test_groups_have_their_own_rates_on_the_device(order):
    """One of them without a rate, and parameters that are in no group: they stay."""
    work, tape = [], Tape()
    for on_device, graphs in ((False, None), (True, tape)):
        work.append(scheduled(("FC-Grad", "BWN-F", "SGD", order, {}), COSINE, graphs, on_device=False))
        optimizee = work[-1].loop.optimizee
        moved, still, out = ([optimizee.param_groups[0]["params"].pop() for _ in range(number)] for number in (8, 2, 3))
        optimizee.add_param_group({"params": moved, "lr": 0.01})
        optimizee.add_param_group({"params": still, "lr": 0.0})
        before = [p.detach().clone() for p in (*still, *out)]
        if on_device:
            work[-1].loop.use_device_rates()
    np.testing.assert_allclose(*(train_scheduled(each) for each in work), rtol=1e-9)
    assert tape.captures == 2
    for p, q in zip((*still, *out), before, strict=True):
        assert torch.equal(p, q)
    for p, q in zip(*(each.loop.net.parameters() for each in work), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


def test_the_weights_of_order_papers_forward_are_those_after_the_update():
    """By rates on the device, too: bit for bit."""
    work = scheduled(("MultiFC", "dorefa", "Adam", "paper", {}), COSINE)
    spy = work.loop.training_quantizer = Spy(work.loop.quantizer)
    for size in work.begin(0):
        before = [layer.weight.detach().clone() for layer in work.loop.net.meta.layers]
        work.run(size)
        for layer, W_used, W in zip(work.loop.net.meta.layers, spy.seen, before, strict=True):
            assert torch.equal(W_used, layer.weight), layer.name
            assert torch.equal(W, W_used) == (work.loop.iteration == 1), layer.name  # at t = 0 nothing is updated


@pytest.mark.cuda
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_cuda_graphs_follow_a_schedule(case):
    eager = scheduled(case, COSINE, device="cuda", on_device=False)
    captured = scheduled(case, COSINE, CudaGraphs(torch.device("cuda")), device="cuda")
    np.testing.assert_allclose(*(train_scheduled(work) for work in (eager, captured)), rtol=1e-6)
    assert len(captured._replays) == 2
    assert captured._captured_at == (captured.loop.learned, ())
