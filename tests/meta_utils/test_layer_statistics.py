"""What layers.csv says of a layer, against a statement of its definitions in NumPy."""

import io
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from meta_utils.install import install_quantizer, parameter_groups
from meta_utils.layer_statistics import first_levels, layer_statistics
from meta_utils.metaquantize import metaquantize
from meta_utils.prox_quant import ProxQuant
from meta_utils.SGD import SGD
from meta_utils.training import TrainingLoop
from utils.choices import ESTIMATORS, META_NETWORKS
from utils.environment import random_states
from utils.logs.layers_csv import LayerRow
from utils.quantize import DoReFa, get_quantizer

CASES = [  # method, quantizer, bits, learning rate
    ("STE", "dorefa", 1, 3.0),
    ("STE", "BWN", 1, 3.0),
    ("EWGS", "dorefa", 2, 1.0),
    ("ApproxSign", "BWN-F", 1, 3.0),
    ("FC-Grad", "BWN-F", 1, 1.0),
    ("MultiFC", "dorefa", 3, 2.0),
    ("MultiFC", "BWN", 1, 30.0),
    ("STE", "ternary", 2, 1.0),
    ("STE", "LSQ", 2, 1.0),
    ("MultiFC", "LSQ", 3, 1.0),
    ("FC-Grad", "TTQ", 2, 1.0),
]

EPOCHS, PER_EPOCH = 6, 3


class SmallNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(16, 10)

    def forward(self, inputs):
        return self.fc(F.adaptive_avg_pool2d(self.conv(inputs).tanh(), 2).flatten(1))


def small_net():
    torch.manual_seed(0)
    return metaquantize(SmallNet()).double().to(memory_format=torch.channels_last).train()


def small_loop(method, quantizer, bits, lr):
    net = small_net()
    quantizer = install_quantizer(net, get_quantizer(quantizer, bits))
    optimizee = SGD(parameter_groups(net, quantizer_lr=0.1), lr=lr)
    if method in META_NETWORKS:
        meta_net = META_NETWORKS.load(method)(hidden_size=5).double()
        return TrainingLoop(net, optimizee, quantizer, meta_net, torch.optim.Adam(meta_net.parameters(), lr=1e-2))
    estimator = None if method == "STE" else ESTIMATORS.load(method)
    return TrainingLoop(net, optimizee, quantizer, estimator=estimator, iterations=EPOCHS * PER_EPOCH)


class Stated(NamedTuple):
    """A layer as NumPy has it: x and W_hat in the same units, the discrete value q, and dW_hat/dW by STE."""

    x: np.ndarray
    W_hat: np.ndarray
    q: np.ndarray
    ste: np.ndarray


def stated(loop, index, name, bits):
    W = loop.net.meta.layers[index].weight.detach().numpy()
    if name == "dorefa":
        x, steps = np.tanh(W) / np.abs(np.tanh(W)).max(), 2**bits - 1
        q = np.floor(steps * (x + 1) / 2 + 0.5)
        return Stated(x, 2 * q / steps - 1, q, (np.abs(x) <= 1) * (1 - np.tanh(W) ** 2) / np.abs(np.tanh(W)).max())
    if name.startswith("BWN"):
        axes = (1, 2, 3) if name == "BWN-F" and W.ndim == 4 else None
        q, scale = np.where(W >= 0, 1, -1), np.abs(W).mean(axis=axes, keepdims=True)
        return Stated(W, scale * q, q, scale * (np.abs(W) <= 1))
    if name == "ternary":
        q = np.clip(np.round(W / np.abs(W).mean()), -1, 1)
        return Stated(W, np.abs(W).mean() * q, q, (np.abs(W) <= 1) * 1.0)
    of_layer = {key: np.abs(value.detach().numpy()[index]) for key, value in loop.quantizer.named_parameters()}
    if name == "LSQ":
        s, low, high = of_layer["s"], -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        q = np.round(np.clip(W / s, low, high))
        return Stated(W, s * q, q, ((W / s >= low) & (W / s <= high)) * 1.0)
    t = 0.05 * np.abs(W).max()
    q = 1.0 * (t < W) - (-t > W)
    factor = np.where(q > 0, of_layer["W_p"], np.where(q < 0, of_layer["W_n"], 1))
    return Stated(W, factor * q, q, factor * (np.abs(W) <= 1))


def gradients(layer, loop, method, quantizer, here):
    """g_W of the method and of STE."""
    W, g, W_tilde = (x.detach().numpy() for x in (layer.weight, layer.quantized_grads, layer.pre_quantized_weight))
    calibration = (1 - np.tanh(W) ** 2) / np.abs(np.tanh(W)).max() if quantizer == "dorefa" else 1.0
    s = loop.meta_net.gain().item() if loop.learned else None
    of_method = {
        "STE": lambda: g * here.ste,
        "ApproxSign": lambda: g * here.ste * np.maximum(0, 2 - 2 * np.abs(here.x)),
        "EWGS": lambda: g * here.ste * (1 + 1e-3 * np.sign(g) * (here.x - here.W_hat) / 2),
        "FC-Grad": lambda: calibration * s * g,
        "MultiFC": lambda: calibration * s * W_tilde * g,
    }
    return of_method[method](), g * here.ste


def stated_rows(epoch, loop, case, history):
    """history: for each layer its q before training and at the ends of the epochs, this one's the last."""
    method, quantizer, bits, _ = case
    rows = []
    for index, (layer, qs) in enumerate(zip(loop.net.meta.layers, history, strict=True)):
        here = stated(loop, index, quantizer, bits)
        flipped = here.q != qs[-2]
        back = float(np.mean(flipped & (here.q == qs[-3]))) if epoch > 1 else None
        g_W, ste = gradients(layer.module, loop, method, quantizer, here)
        norm = math.sqrt(sum(g_W.ravel() ** 2))
        cosine = None if method == "STE" else (g_W * ste).sum() / norm / math.sqrt((ste**2).sum())
        shares = float(np.mean(flipped)), float(np.mean(here.q != qs[0])), back
        rows.append(LayerRow(epoch, layer.name, here.q.size, *shares, np.abs(here.x - here.W_hat).mean(), norm, cosine))
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
        return [stated(loop, index, *case[1:3]).q for index in range(len(layers))]

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
        assert [row.layer for row in rows] == list(W_tilde) == ["conv", "fc"]
        levels, found = statistics.levels, [*found, *rows]
    assert sum(row.flipped > 0 for row in found) > 4
    assert any(row.oscillating for row in found)
    assert any(row.flipped != row.flipped_since_start for row in found)
    if case[0] not in ("STE", "EWGS"):
        assert any(abs(row.cosine) < 0.999 for row in found)


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
    prox = ProxQuant(quantizer)
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
