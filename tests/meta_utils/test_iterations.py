"""Captured iterations equal eager ones; an iteration waits for nothing, and its shapes hang on no data."""

import copy
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from tape import CannotCapture, Tape
from training_loops import Spy

from meta_utils.adam import Adam
from meta_utils.capture import CudaGraphs
from meta_utils.install import install_quantizer, parameter_groups
from meta_utils.iterations import Iterations
from meta_utils.layer_statistics import first_levels, layer_statistics
from meta_utils.metaquantize import metaquantize
from meta_utils.training import TrainingLoop
from models_CIFAR.resnet import ResNet
from utils.batches import ImageSet, ResidentLoader
from utils.choices import ESTIMATORS, META_NETWORKS, OPTIMIZEES, PROXIMAL, methods
from utils.environment import random_states
from utils.quantize import get_quantizer
from utils.schedules import Schedule, scale_rates

CASES = [
    ("STE", "dorefa", "SGD-M", "notebook", {}),
    ("FC-Grad", "BWN", "Adam", "notebook", {"use_nonlinear": "relu"}),
    ("MultiFC", "dorefa", "Adam", "notebook", {}),
    ("MultiFC", "BWN-F", "SGD", "paper", {"use_nonlinear": "tanh", "hidden_size": 3}),
    ("LSTMFC", "dorefa", "SGD", "notebook", {"hidden_size": 2}),
    ("STE-identity", "BWN", "SGD", "notebook", {}),
    ("ApproxSign", "BWN-F", "Adam", "notebook", {}),
    ("EDE", "dorefa", "SGD-M", "notebook", {}),
    ("EDE", "BWN-F", "SGD", "notebook", {}),
    ("ReSTE", "BWN", "SGD", "notebook", {}),
    ("EWGS", "dorefa", "SGD", "notebook", {}),
    ("BinaryRelax", "BWN", "SGD", "notebook", {}),
    ("ProxQuant", "dorefa", "SGD-M", "notebook", {}),
    ("FC-Grad", "dorefa", "SGD", "paper", {"clip": 0.5}),
]
WITH_PARAMETERS = [("STE", "LSQ", "SGD-M", "notebook", {}), ("MultiFC", "TTQ", "Adam", "paper", {})]  # of the quantizer's own
BATCH, IMAGES = 4, 14  # 4, 4, 4, 2
TOTAL = 20  # iterations of 5 epochs


def iterations(case, graphs=None, device="cpu", dtype=torch.float64, autocast=None):
    method, quantizer, optimizer, order, options = case
    torch.manual_seed(0)
    net = metaquantize(ResNet(20 if device == "cuda" else 8), autocast=autocast)
    net = net.to(device, dtype, memory_format=torch.channels_last)
    quantizer = install_quantizer(net, get_quantizer(quantizer, 2 if quantizer == "LSQ" else None))
    optimizee = OPTIMIZEES[optimizer].build(parameter_groups(net, quantizer_lr=1e-2), lr=1e-3, weight_decay=1e-4)
    options = dict(options)
    how = {"update_order": order, "iterations": TOTAL, "clip": options.pop("clip", None)}
    if method in META_NETWORKS:
        meta_net = META_NETWORKS.load(method)(**options).to(device, dtype)
        meta_net.product_dtype = autocast
        how |= {"meta_net": meta_net, "meta_optimizer": Adam(meta_net.parameters(), lr=1e-3, bias_corrected_eps=True)}
    elif method in ESTIMATORS:
        how["estimator"] = ESTIMATORS.load(method)
    else:
        how |= {"after_step": [PROXIMAL.load(method)(quantizer, TOTAL, strength=50.0)], "quantized_forward": False}
    loop = TrainingLoop(net, optimizee, quantizer, **how)
    images = torch.randint(256, (IMAGES, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    loader = ResidentLoader(
        ImageSet(images, torch.arange(IMAGES) % 10, 10, (0.5,) * 3, (0.5,) * 3), "train", BATCH, device=device
    )
    take = loader.take
    loader.take = lambda count: tuple(x.to(dtype) if x.is_floating_point() else x for x in take(count))
    return Iterations(loop, loader, graphs)


def train(work, epochs=5, drop_after=3, group=0):
    """The measured loss and accuracy of every iteration, with a drop of the learning rate on the way."""
    found = []
    for epoch in range(epochs):
        for size in work.begin(epoch):
            work.run(size)
        found += work.read()
        if epoch + 1 == drop_after:
            work.loop.optimizee.param_groups[group]["lr"] = 1e-4
    return found


def numbers(work):
    state = work.loop.state_dict()
    return [state["net"], state["gradients"], state["layers"], state["meta_net"], state["meta_hidden_state_dict"]]


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


@pytest.mark.parametrize("case", CASES + WITH_PARAMETERS, ids=lambda case: "-".join(case[:4]))
def test_a_captured_iteration_is_the_iteration(case):
    """Everything that an iteration computes, it computes by operations on the same tensors every time: replaying them is it."""
    tape = Tape()
    assert_equal_runs(iterations(case), iterations(case, tape), 1e-12)
    assert tape.captures == 4  # two sizes of batches, two learning rates
    assert tape.replays == TOTAL - 4  # three of the first size to warm up, one of the second


@pytest.mark.parametrize("case", [CASES[4], WITH_PARAMETERS[1]], ids=lambda case: "-".join(case[:4]))
def test_a_captured_iteration_in_bf16_is_the_iteration(case):
    tape, where = Tape(), {"dtype": torch.float32, "autocast": torch.bfloat16}
    eager, captured = iterations(case, **where), iterations(case, tape, **where)
    assert train(eager, epochs=2) == [pytest.approx(measured, rel=1e-5) for measured in train(captured, epochs=2)]
    assert (tape.captures, tape.replays) == (2, 4)
    for ours, theirs in zip(numbers(eager), numbers(captured), strict=True):
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", [CASES[2], CASES[3], CASES[4]], ids=lambda case: "-".join(case[:4]))
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


@pytest.mark.parametrize("case", [CASES[0], CASES[-1]], ids=lambda case: "-".join(case[:4]))
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


COSINE, EPOCHS = Schedule("cosine", warmup=1), 3


def follow(schedule, work, iteration):
    """What `Iterations` calls before each iteration, of 3 epochs of 4: alpha and gamma by a schedule."""
    scale_rates((work.loop.optimizee, work.loop.meta_optimizer), schedule.factor(iteration, per_epoch=4, epochs=EPOCHS))


def scheduled(case, schedule, graphs=None, on_device=True, **where):
    work = iterations(case, graphs, **where)
    work._set_rates = partial(follow, schedule, work)
    if on_device:
        work.loop.use_device_rates()
    return work


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
    found = [train(work, EPOCHS, drop_after=None) for work in (eager, captured)]
    np.testing.assert_allclose(*found, rtol=1e-9)
    factors = [schedule.factor(t, 4, EPOCHS) for t in range(12)]
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
    np.testing.assert_allclose(*(train(each, EPOCHS, drop_after=None) for each in work), rtol=1e-9)
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


def test_the_check_of_a_capture_leaves_the_rates_on_the_device_as_they_were():
    tape = Tape()
    work = scheduled(CASES[1], COSINE, tape)
    work._on_eager = pytest.fail
    before = whole_state(work)
    work.check_capture(0)
    assert work.loop.iteration == 0
    assert_same(work.loop.optimizee.state_dict()["state"], before[0]["optimizee"]["state"])
    reference = scheduled(CASES[1], COSINE, on_device=False)
    np.testing.assert_allclose(*(train(each, EPOCHS, drop_after=None) for each in (work, reference)), rtol=1e-9)
    assert tape.captures == 3  # one size in the check, whose single batch of the other runs eagerly, and two after it


@pytest.mark.cuda
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case[:4]))
def test_cuda_graphs_follow_a_schedule(case):
    eager = scheduled(case, COSINE, device="cuda", on_device=False)
    captured = scheduled(case, COSINE, CudaGraphs(torch.device("cuda")), device="cuda")
    np.testing.assert_allclose(*(train(work, EPOCHS, drop_after=None) for work in (eager, captured)), rtol=1e-6)
    assert len(captured._replays) == 2
    assert captured._captured_at == (captured.loop.learned, ())


@pytest.mark.cuda
@pytest.mark.parametrize("case", CASES + WITH_PARAMETERS, ids=lambda case: "-".join(case[:4]))
def test_cuda_graphs_equal_the_eager_iterations(case):
    assert_equal_runs(iterations(case, device="cuda"), iterations(case, CudaGraphs(torch.device("cuda")), "cuda"), 1e-9)


@pytest.mark.cuda
@pytest.mark.parametrize("case", [CASES[2], CASES[3], CASES[4]], ids=lambda case: "-".join(case[:4]))
def test_cuda_graphs_freeze_phi_as_eager_iterations_do(case):
    works = [iterations(case, graphs, "cuda") for graphs in (None, CudaGraphs(torch.device("cuda")))]
    for work in works:
        work.loop.freeze_phi_after = 9
    np.testing.assert_allclose(*(train(work, drop_after=None) for work in works), rtol=1e-9)
    for ours, theirs in zip(*map(numbers, works), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


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


class ForgetsTheUpdate(Tape):
    """A capture that goes wrong: of every operation on a list of tensors only the first iteration's is done."""

    def capture(self, body):
        replay = super().capture(body)
        operations = replay.__closure__[replay.__code__.co_freevars.index("recorder")].cell_contents.operations
        operations[:] = [entry for entry in operations if "_foreach_add_" not in entry[0]._schema.name]
        return replay


def whole_state(work):
    return copy.deepcopy(work.loop.state_dict()), random_states()


def assert_same(ours, theirs):
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    else:
        assert ours == theirs


def advance(work, end):
    """Runs to an iteration; returns the losses on the way."""
    losses = []
    while work.loop.iteration < end:
        for measured in work.rest_of_epoch(work.loop.iteration // 4):
            losses += [one.loss for one in measured]
            if work.loop.iteration == end:
                break
    return losses


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case[:4]))
@pytest.mark.parametrize("begun", [0, 6])
def test_the_check_of_a_capture_leaves_everything_as_it_was(case, begun):
    """At the start of a run, or of a resumed one."""
    notes, tape = [], Tape()
    eager = iterations(case)
    advance(eager, begun)
    work = Iterations(eager.loop, eager.loader, tape, notes.append)
    before = whole_state(work)
    work.check_capture(begun // 4)
    assert_same(whole_state(work), before)
    assert notes == []
    assert tape.replays >= 3
    reference = iterations(case)
    advance(reference, begun)
    np.testing.assert_allclose(advance(work, 14), advance(reference, 14), rtol=1e-12)


def test_a_capture_that_does_something_else_is_not_used():
    for case in CASES[:5]:
        notes, tape = [], ForgetsTheUpdate()
        work = iterations(case, tape)
        work._on_eager = notes.append
        before = whole_state(work)
        work.check_capture(0)
        assert_same(whole_state(work), before)
        (note,) = notes
        assert "the losses of replayed iterations differ" in note or "the parameters of replayed iterations differ" in note
        tape.replays = 0
        assert train(work, epochs=2) == train(iterations(case), epochs=2)
        assert tape.replays == 0


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError])
@pytest.mark.parametrize("nth", [1, 2, 4])
def test_a_capture_that_fails_makes_the_run_go_on_eagerly(error, nth):
    """At the check, or later, such as after a drop of the learning rate: the iteration is done, once, and so are all after it."""
    notes = []
    work = iterations(CASES[1], CannotCapture(nth, error))
    work._on_eager = notes.append
    if nth == 1:
        before = whole_state(work)
        work.check_capture(0)
        assert_same(whole_state(work), before)
    np.testing.assert_allclose(train(work), train(iterations(CASES[1])), rtol=1e-12)
    assert notes == ["the capture failed: CUDA out of memory. Tried to allocate 2.00 GiB"]
    assert work.loop.iteration == 20
