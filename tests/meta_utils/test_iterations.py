"""An iteration waits for nothing from the device, and the log is what each iteration measured."""

from itertools import pairwise

import pytest
import torch
from tape import Tape
from training_loops import CASES, COSINE, iterations, scheduled, train

from meta_utils.layer_statistics import first_levels, layer_statistics
from utils.choices import META_NETWORKS, methods


@pytest.mark.parametrize(
    ("method", "quantizer", "optimizer"),
    [
        *((m, *q) for m in methods() for q in (("dorefa", "SGD-M"), ("BWN", "SGD"), ("BWN-F", "Adam"))),
        ("STE", "LSQ", "Adam"),
        ("MultiFC", "TTQ", "SGD"),
        ("STE", "ternary", "SGD"),
    ],
)
def test_an_iteration_needs_no_number_from_the_device(method, quantizer, optimizer):
    """On torch's meta device there are shapes and no numbers, so that whatever asks for one raises; rates on the device, too."""
    work = scheduled((method, quantizer, optimizer, "notebook", {}), COSINE, device="meta", dtype=torch.float32)
    sizes = work.begin(0)
    for count in sizes:
        work.run(count)
    assert work.loop.iteration == len(sizes) == 4
    with pytest.raises(NotImplementedError, match="meta"):
        work.read()


@pytest.mark.parametrize("method", ["STE", *META_NETWORKS])
@pytest.mark.parametrize("quantizer", ["dorefa", "BWN-F"])
def test_the_statistics_of_an_epoch_need_no_number_before_they_are_read(method, quantizer):
    work = iterations((method, quantizer, "SGD", "notebook", {}), device="meta", dtype=torch.float32)
    levels = first_levels(work.loop, is_epochs_end=True)
    for epoch in range(2):
        for size in work.begin(epoch):
            work.run(size)
        statistics = layer_statistics(work.loop, levels)
        levels = statistics.levels
    assert {"flipped", "flipped_since_start", "oscillating", "distance", "norm"} <= statistics.columns.keys()
    with pytest.raises(NotImplementedError, match="meta"):
        statistics.read(2)


def test_what_is_captured_waits_for_nothing():
    with pytest.raises(AssertionError, match="_local_scalar_dense waits for the device"):
        Tape().capture(lambda: torch.ones(2).sum().item())


def test_the_log_is_what_each_iteration_measured():
    """Reading after every iteration and reading once give the same, and skipping leaves out what was skipped."""
    at_once = train(iterations(CASES[0]), epochs=2)
    work, one_by_one = iterations(CASES[0]), []
    for epoch in range(2):
        for size in work.begin(epoch):
            work.run(size)
            one_by_one += work.read()
    assert one_by_one == at_once
    assert [m.size for m in at_once] == [4, 4, 4, 2] * 2
    assert all(0 <= m.top1 <= 100 for m in at_once)
    assert any(a.loss != b.loss for a, b in pairwise(at_once))
    assert work.begin(2, skip=3) == [2]
