"""What layers.csv says of a layer, against a statement of its definitions in NumPy."""

import io
import math

import numpy as np
import pytest
import torch
from torch import nn
from training_loops import make_loop

from meta_utils.layer_statistics import discretized, first_levels, layer_statistics, level
from meta_utils.metaquantize import metaquantize
from meta_utils.prox_quant import ProxQuant
from meta_utils.SGD import SGD
from meta_utils.training import TrainingLoop
from utils.choices import ESTIMATORS, META_NETWORKS
from utils.environment import random_states
from utils.layers_csv import LayerRow
from utils.quantize import DoReFa, get_quantizer

CASES = [  # method, quantizer, bits, learning rate
    ("STE", "dorefa", 1, 3.0),
    ("STE", "BWN", 1, 3.0),
    ("EWGS", "dorefa", 2, 1.0),
    ("ApproxSign", "BWN-F", 1, 3.0),
    ("FC-Grad", "BWN-F", 1, 1.0),
    ("MultiFC", "dorefa", 3, 2.0),
    ("MultiFC", "BWN", 1, 30.0),
]
EPOCHS, PER_EPOCH = 6, 3


def small_net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10))
    return metaquantize(net).double().to(memory_format=torch.channels_last).train()


def small_loop(method, quantizer, bits, lr):
    net = small_net()
    optimizee, quantizer = SGD(net.parameters(), lr=lr), get_quantizer(quantizer, bits)
    if method in META_NETWORKS:
        meta_net = META_NETWORKS.load(method)(hidden_size=5).double()
        return TrainingLoop(net, optimizee, quantizer, meta_net, torch.optim.Adam(meta_net.parameters(), lr=1e-2))
    estimator = None if method == "STE" else ESTIMATORS.load(method)
    return TrainingLoop(net, optimizee, quantizer, estimator=estimator, iterations=EPOCHS * PER_EPOCH)


def x_and_q(W, quantizer, bits):
    """What is discretized, its discrete value, and what 1 in the latter is in the former."""
    if quantizer == "dorefa":
        x, steps = np.tanh(W) / np.abs(np.tanh(W)).max(), 2**bits - 1
        return x, 2 * np.floor(steps * (x + 1) / 2 + 0.5) / steps - 1, 1.0
    axes = (1, 2, 3) if quantizer == "BWN-F" and W.ndim == 4 else None
    return W, np.where(W >= 0, 1.0, -1.0), np.abs(W).mean(axis=axes, keepdims=True)


def gradients(layer, loop, method, quantizer, bits):
    """g_W of the method and of STE."""
    W, g, W_tilde = (x.detach().numpy() for x in (layer.weight, layer.quantized_grads, layer.pre_quantized_weight))
    x, q, unit = x_and_q(W, quantizer, bits)
    dx = (1 - np.tanh(W) ** 2) / np.abs(np.tanh(W)).max() if quantizer == "dorefa" else 1.0
    ste = unit * g * (np.abs(x) <= 1) * dx
    s = loop.meta_net.scale().item() if loop.learned else None
    of_method = {
        "STE": lambda: ste,
        "ApproxSign": lambda: unit * g * np.maximum(0, 2 - 2 * np.abs(x)) * dx,
        "EWGS": lambda: unit * g * (1 + 1e-3 * np.sign(g) * (x - q) / 2) * dx,
        "FC-Grad": lambda: s * g * dx,
        "MultiFC": lambda: s * W_tilde * g * dx,
    }
    return of_method[method](), ste


def stated_rows(epoch, loop, case, history):
    """history: for each layer its q before training and at the ends of the epochs, this one's the last."""
    method, quantizer, bits, _ = case
    rows = []
    for layer, qs in zip(loop.net.meta.layers, history, strict=True):
        W = layer.weight.detach().numpy()
        x, q, unit = x_and_q(W, quantizer, bits)
        flipped = q != qs[-2]
        back = float(np.mean(flipped & (q == qs[-3]))) if epoch > 1 else None
        g_W, ste = gradients(layer.module, loop, method, quantizer, bits)
        norm = math.sqrt(sum(g_W.ravel() ** 2))
        cosine = None if method == "STE" else (g_W * ste).sum() / norm / math.sqrt((ste**2).sum())
        shares = float(np.mean(flipped)), float(np.mean(q != qs[0])), back
        rows.append(LayerRow(epoch, layer.name, W.size, *shares, np.abs(x - unit * q).mean(), norm, cosine))
    return rows


def assert_rows_equal(ours, theirs, rel=1e-10):
    assert len(ours) == len(theirs) > 1
    for one, other in zip(ours, theirs, strict=True):
        assert one[:3] == other[:3]
        for a, b in zip(one[3:], other[3:], strict=True):
            assert (a is None) == (b is None)
            assert a == b or a == pytest.approx(b, rel=rel)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case[:3])))
def test_the_rows_are_their_definitions(case, batches):
    loop = small_loop(*case)
    layers = loop.net.meta.layers

    def q_now():
        return [x_and_q(layer.weight.detach().numpy(), *case[1:3])[1] for layer in layers]

    history = [[q] for q in q_now()]
    levels, found = first_levels(loop, is_epochs_end=True), []
    data = batches(EPOCHS * PER_EPOCH)
    for epoch in range(1, EPOCHS + 1):
        for batch in data[PER_EPOCH * (epoch - 1) : PER_EPOCH * epoch]:
            loop.step(*batch)
        for qs, q in zip(history, q_now(), strict=True):
            qs.append(q)
        statistics = layer_statistics(loop, levels)
        rows, W_tilde = statistics.read(epoch)
        assert_rows_equal(rows, stated_rows(epoch, loop, case, history))
        assert [row.layer for row in rows] == list(W_tilde) == ["0", "4"]
        levels, found = statistics.levels, [*found, *rows]
    assert sum(row.flipped > 0 for row in found) > 4
    assert any(row.oscillating for row in found)
    assert any(row.flipped != row.flipped_since_start for row in found)
    if case[0] not in ("STE", "EWGS"):
        assert any(abs(row.cosine) < 0.999 for row in found)


def test_w_tilde_of_the_first_the_middle_and_the_last_layer_and_no_more_than_a_sample(tiny_net, batches, monkeypatch):
    monkeypatch.setattr("meta_utils.layer_statistics.SAMPLE", 1000)
    loop = make_loop(tiny_net)
    loop.step(*batches(1)[0])
    _, W_tilde = layer_statistics(loop, {}).read(1)
    assert [len(values) for values in W_tilde.values()] == [432, 512, 640]
    assert list(W_tilde) == ["conv1", "layer2.0.downsample.0", "fc"]
    for name, values in W_tilde.items():
        W = tiny_net.get_submodule(name).weight.detach().flatten().numpy()
        np.testing.assert_allclose(np.sort(values), np.sort(np.tanh(W) / np.abs(np.tanh(W)).max() / 2 + 0.5))
    monkeypatch.setattr("meta_utils.layer_statistics.SAMPLE", 300)
    _, sample = layer_statistics(loop, {}).read(1)
    assert [len(values) for values in sample.values()] == [216, 256, 214]
    assert all(set(sample[name]) <= set(W_tilde[name]) for name in sample)


def state_of(loop):
    """Everything that a loop's next iteration depends on, and what the layers show, as bytes."""
    file = io.BytesIO()
    torch.save([loop.state_dict(), loop.net.meta.shown, random_states()], file)
    return file.getvalue()


@pytest.mark.parametrize("method", ["STE", "LSTMFC"])
def test_the_statistics_change_nothing(method, batches):
    loop = small_loop(method, "dorefa", 1, 0.1)
    for batch in batches(2):
        loop.step(*batch)
    before = state_of(loop)
    layer_statistics(loop, first_levels(loop, is_epochs_end=True)).read(1)
    assert state_of(loop) == before
    loop.step(*batch)
    assert state_of(loop) != before


def test_what_is_not_known_stays_unknown(batches):
    """Of a run that goes on from the checkpoint of an earlier version, within an epoch or at its end."""
    loop = small_loop("STE", "dorefa", 1, 0.1)
    loop.step(*batches(1)[0])
    assert first_levels(loop, is_epochs_end=False) == {}
    known = {"distance", "norm"}
    for levels, columns in (
        ({}, [known, known | {"flipped"}, known | {"flipped", "oscillating"}]),
        (first_levels(loop, is_epochs_end=True), [known | {"flipped"}, known | {"flipped", "oscillating"}]),
    ):
        for expected in columns:
            statistics = layer_statistics(loop, levels)
            (row, *_), _ = statistics.read(1)
            assert {name for name in LayerRow._fields[3:] if getattr(row, name) is not None} == expected
            levels = statistics.levels


def test_proxquant_has_no_gradient_of_a_quantized_weight(batches):
    net, quantizer = small_net(), DoReFa(1)
    prox = ProxQuant(quantizer, iterations=4)
    options = {"iterations": 4, "after_step": [prox], "quantized_forward": False}
    loop = TrainingLoop(net, SGD(net.parameters(), lr=1.0), quantizer, **options)
    levels = first_levels(loop, is_epochs_end=True)
    for batch in batches(4):
        loop.step(*batch)
    rows, _ = layer_statistics(loop, levels).read(1)
    assert {(row.norm, row.cosine) for row in rows} == {(None, None)}
    assert all(row.distance == pytest.approx(0, abs=1e-12) for row in rows)  # it ends at W = W_hat
    assert any(row.flipped > 0 for row in rows)


def test_no_cosine_where_a_gradient_is_zero(batches):
    loop = small_loop("FC-Grad", "dorefa", 1, 0.1)
    loop.step(*batches(1)[0])
    with torch.no_grad():
        loop.meta_net.fc.maps[0].weight.zero_()
    rows, _ = layer_statistics(loop, {}).read(1)
    assert {(row.norm, row.cosine) for row in rows} == {(0.0, None)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_level_is_a_byte_of_its_own_for_each_discrete_value(dtype):
    for bits in range(1, 9):
        W = torch.linspace(-1, 1, 4 * 2**bits + 1, dtype=dtype)
        q = discretized(DoReFa(bits), W.atanh().clamp(-9, 9)).q
        assert len(q.unique()) == 2**bits
        values = {(a.item(), b.item()) for a, b in zip(q, level(q), strict=True)}
        assert len(values) == len(level(q).unique()) == 2**bits
    whole = torch.arange(-128, 128, dtype=dtype)
    assert len(level(whole).unique()) == 256
    assert level(whole).dtype == torch.uint8


class Thirds:
    """Three values, by a scale that is the layer's; its step is no Discretize."""

    bits = 1

    def preprocess(self, W, layout):
        return W

    def quantize(self, W_tilde, W=None, layout=None):
        s = layout.abs_mean(W_tilde.detach())
        return (s * (W_tilde / s).round().clamp(-1, 1)).detach() + W_tilde - W_tilde.detach()

    def calibration(self, W, layout):
        return torch.ones_like(W)


def test_a_quantizer_that_does_not_show_its_step_is_compared_by_sign(tiny_net):
    """A scale that changes is no flip."""
    loop = make_loop(tiny_net, quantizer=Thirds())
    W, levels = tiny_net.conv1.weight, first_levels(loop, is_epochs_end=True)
    s = W.detach().abs().mean()
    q = (W.detach() / s).round().clamp(-1, 1)
    with torch.no_grad():
        W *= 1.5
        (row, *_), _ = layer_statistics(loop, levels).read(1)
        assert row.flipped == 0
        assert row.distance == pytest.approx(1.5 * (W / 1.5 - s * q).abs().mean().item())
        W.neg_()
    (row, *_), _ = layer_statistics(loop, levels).read(1)
    assert row.flipped == pytest.approx((q != 0).double().mean().item())
