"""Captured iterations equal eager ones; an iteration waits for nothing, and its shapes hang on no data."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from tape import Tape

from meta_utils.adam import Adam
from meta_utils.iterations import CudaGraphs, Iterations
from meta_utils.training import TrainingLoop
from models_CIFAR.quantized_meta_resnet import QuantizedMetaResNet
from utils.batches import ImageSet, ResidentLoader
from utils.choices import META_NETWORKS, OPTIMIZEES
from utils.quantize import get_quantizer

CASES = [
    ("STE", "dorefa", "SGD-M", "notebook", {}),
    ("FC-Grad", "BWN", "Adam", "notebook", {"use_nonlinear": "relu"}),
    ("MultiFC", "dorefa", "Adam", "notebook", {}),
    ("MultiFC", "BWN-F", "SGD", "paper", {"use_nonlinear": "tanh", "hidden_size": 3}),
    ("LSTMFC", "dorefa", "SGD", "notebook", {"hidden_size": 2}),
]
BATCH, IMAGES = 4, 14  # 4, 4, 4, 2


def iterations(case, graphs=None, device="cpu", dtype=torch.float64):
    method, quantizer, optimizer, order, options = case
    torch.manual_seed(0)
    net = QuantizedMetaResNet(20 if device == "cuda" else 8).to(device, dtype, memory_format=torch.channels_last)
    optimizee = OPTIMIZEES[optimizer].build(net.parameters(), lr=1e-3, weight_decay=1e-4)
    meta_net = meta_optimizer = None
    if method != "STE":
        meta_net = META_NETWORKS.load(method)(**options).to(device, dtype)
        meta_optimizer = Adam(meta_net.parameters(), lr=1e-3, bias_corrected_eps=True)
    loop = TrainingLoop(net, optimizee, get_quantizer(quantizer), method, meta_net, meta_optimizer, order)
    images = torch.randint(256, (IMAGES, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    loader = ResidentLoader(
        ImageSet(images, torch.arange(IMAGES) % 10, 10, (0.5,) * 3, (0.5,) * 3), "train", BATCH, device=device
    )
    take = loader.take
    loader.take = lambda count: tuple(x.to(dtype) if x.is_floating_point() else x for x in take(count))
    return Iterations(loop, loader, graphs)


def train(work, epochs=5, drop_after=3):
    """The measured loss and accuracy of every iteration, with a drop of the learning rate on the way."""
    found = []
    for epoch in range(epochs):
        for count in work.begin(epoch):
            work.run(count)
        found += work.read()
        if epoch + 1 == drop_after:
            work.loop.optimizee.param_groups[0]["lr"] = 1e-4
    return found


def numbers(work):
    state = work.loop.state_dict()
    return [state["net"], state["gradients"], state["layers"], state["meta_net"], state["meta_hidden_state_dict"]]


def assert_equal_runs(eager, captured, rtol):
    np.testing.assert_allclose(train(eager), train(captured), rtol=rtol)
    assert eager.loop.iteration == captured.loop.iteration == 20
    for ours, theirs in zip(numbers(eager), numbers(captured), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=rtol, atol=rtol)
    for symbol in eager.loop.net.meta.kept:
        ours, theirs = (work.loop.net.meta.get(symbol) for work in (eager, captured))
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case[:4]))
def test_a_captured_iteration_is_the_iteration(case):
    """Everything that an iteration computes, it computes by operations on the same tensors every time: replaying them is it."""
    tape = Tape()
    assert_equal_runs(iterations(case), iterations(case, tape), 1e-12)
    assert tape.captures == 4  # two sizes of batches, two learning rates
    assert tape.replays == 20 - 4  # three of the first size to warm up, one of the second


@pytest.mark.cuda
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case[:4]))
def test_cuda_graphs_equal_the_eager_iterations(case):
    assert_equal_runs(iterations(case, device="cuda"), iterations(case, CudaGraphs(torch.device("cuda")), "cuda"), 1e-9)


@pytest.mark.parametrize("method", ["STE", *META_NETWORKS])
@pytest.mark.parametrize(("quantizer", "optimizer"), [("dorefa", "SGD-M"), ("BWN", "SGD"), ("BWN-F", "Adam")])
def test_an_iteration_needs_no_number_from_the_device(method, quantizer, optimizer):
    """On torch's meta device there are shapes and no numbers, so that whatever asks for one raises."""
    work = iterations((method, quantizer, optimizer, "notebook", {}), device="meta", dtype=torch.float32)
    sizes = work.begin(0)
    for count in sizes:
        work.run(count)
    assert work.loop.iteration == len(sizes) == 4
    with pytest.raises(NotImplementedError, match="meta"):
        work.read()


def test_what_is_captured_waits_for_nothing():
    with pytest.raises(AssertionError, match="_local_scalar_dense waits for the device"):
        Tape().capture(lambda: torch.ones(2).sum().item())


def test_the_log_is_what_each_iteration_measured():
    """Reading after every iteration and reading once give the same, and skipping leaves out what was skipped."""
    at_once = train(iterations(CASES[0]), epochs=2)
    work, one_by_one = iterations(CASES[0]), []
    for epoch in range(2):
        for count in work.begin(epoch):
            work.run(count)
            one_by_one += work.read()
    assert one_by_one == at_once
    assert [m.count for m in at_once] == [4, 4, 4, 2] * 2
    assert all(0 <= m.top1 <= 100 for m in at_once)
    assert any(a.loss != b.loss for a, b in pairwise(at_once))
    assert work.begin(2, skip=3) == [2]
