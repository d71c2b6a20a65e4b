"""Captured iterations equal eager ones: on the CPU replayed from a tape, on a GPU by CUDA graphs."""

import numpy as np
import pytest
import torch
from tape import Tape
from training_loops import CASES, TOTAL, WITH_PARAMETERS, case_id, iterations, numbers, train

from meta_utils.capture import CudaGraphs
from meta_utils.layer_statistics import first_levels, layer_statistics


def assert_equal_runs(eager, captured, rtol):
    np.testing.assert_allclose(train(eager), train(captured), rtol=rtol)
    assert eager.loop.iteration == captured.loop.iteration == TOTAL
    for ours, theirs in zip(numbers(eager), numbers(captured), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=rtol, atol=rtol)
    assert torch.equal(eager.loop.progress, captured.loop.progress)
    assert eager.loop.progress == 1
    for symbol in eager.loop.net.meta.shown:
        ours, theirs = (work.loop.net.meta.get(symbol) for work in (eager, captured))
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("case", CASES + WITH_PARAMETERS, ids=case_id)
def test_a_captured_iteration_is_the_iteration(case):
    """Everything that an iteration computes, it computes by operations on the same tensors every time: replaying them is it."""
    tape = Tape()
    assert_equal_runs(iterations(case), iterations(case, tape), 1e-12)
    assert tape.captures == 4  # two sizes of batches, two learning rates
    assert tape.replays == TOTAL - 4  # three of the first size to warm up, one of the second


@pytest.mark.parametrize("case", [CASES[4], WITH_PARAMETERS[1]], ids=case_id)
def test_a_captured_iteration_in_bf16_is_the_iteration(case):
    tape, where = Tape(), {"dtype": torch.float32, "autocast": torch.bfloat16}
    eager, captured = iterations(case, **where), iterations(case, tape, **where)
    assert train(eager, epochs=2) == [pytest.approx(measured, rel=1e-5) for measured in train(captured, epochs=2)]
    assert (tape.captures, tape.replays) == (2, 4)
    for ours, theirs in zip(numbers(eager), numbers(captured), strict=True):
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES[2:5], ids=case_id)
def test_captured_iterations_freeze_phi_as_eager_ones_do(case):
    tape = Tape()
    works = [iterations(case), iterations(case, tape)]
    for work in works:
        work.loop.freeze_phi_after = 9  # in the third epoch of 4 iterations
    np.testing.assert_allclose(*(train(work, drop_after=None) for work in works), rtol=1e-12)
    for ours, theirs in zip(*map(numbers, works), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert tape.captures == 4  # two sizes of batches, before and after
    assert tape.replays == TOTAL - 4


def layer_rows(work, epochs=4):
    """The rows of layers.csv."""
    rows, levels = [], first_levels(work.loop, is_epochs_end=True)
    for epoch in range(epochs):
        for size in work.begin(epoch):
            work.run(size)
        statistics = layer_statistics(work.loop, levels)
        levels = statistics.levels
        rows += statistics.read(epoch + 1)[0]
    return rows


@pytest.mark.parametrize("case", [CASES[0], CASES[-1]], ids=case_id)
def test_captured_iterations_give_the_rows_of_eager_ones(case):
    tape = Tape()
    eager, captured = layer_rows(iterations(case)), layer_rows(iterations(case, tape))
    assert tape.replays
    assert [row[:6] for row in eager] == [row[:6] for row in captured]  # what is counted
    assert any(row.flipped for row in eager)
    for ours, theirs in zip(eager, captured, strict=True):
        assert ours[6:8] == pytest.approx(theirs[6:8], rel=1e-9)
        assert (ours.cosine is theirs.cosine is None) if case[0] == "STE" else ours.cosine == pytest.approx(theirs.cosine)


@pytest.mark.parametrize("order", ["notebook", "paper"])
def test_a_captured_iteration_heeds_every_groups_learning_rate(order):
    work, tape = [], Tape()
    for graphs in (None, tape):
        work.append(iterations(("FC-Grad", "BWN-F", "SGD", order, {}), graphs))
        optimizee = work[-1].loop.optimizee
        moved = [optimizee.param_groups[0]["params"].pop() for _ in range(10)]
        optimizee.add_param_group({"params": moved, "lr": 0.01})
    np.testing.assert_allclose(*(train(each, group=1) for each in work), rtol=1e-12)
    assert tape.captures == 4  # two sizes of batches, two learning rates of the second group


@pytest.mark.cuda
@pytest.mark.parametrize("case", CASES + WITH_PARAMETERS, ids=case_id)
def test_cuda_graphs_equal_the_eager_iterations(case):
    captured = iterations(case, CudaGraphs(torch.device("cuda")), "cuda")
    captured._on_eager = pytest.fail
    assert_equal_runs(iterations(case, device="cuda"), captured, 1e-9)
    assert captured._replays


@pytest.mark.cuda
@pytest.mark.parametrize("case", CASES[2:5], ids=case_id)
def test_cuda_graphs_freeze_phi_as_eager_iterations_do(case):
    works = [iterations(case, graphs, "cuda") for graphs in (None, CudaGraphs(torch.device("cuda")))]
    for work in works:
        work.loop.freeze_phi_after = 9
        work._on_eager = pytest.fail
    np.testing.assert_allclose(*(train(work, drop_after=None) for work in works), rtol=1e-9)
    assert works[1]._replays
    for ours, theirs in zip(*map(numbers, works), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
