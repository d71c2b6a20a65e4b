"""The discrete levels by which flips are counted, and the samples of W_tilde for histograms."""

import numpy as np
import pytest
import torch
from torch import nn
from training_loops import make_loop

from meta_utils.layer_statistics import error, first_levels, layer_statistics, levels_of
from utils.choices import QUANTIZERS
from utils.quantize import get_quantizer


@pytest.mark.parametrize("name", ["dorefa", "LSQ"])
@pytest.mark.parametrize("bits", range(1, 9))
def test_a_level_is_a_byte_of_its_own_for_each_discrete_value(name, bits):
    quantizer, W = get_quantizer(name, bits), torch.linspace(-0.9, 1, 3 * 2**bits + 1).atanh().clamp(-3, 3)
    if name == "LSQ":
        quantizer.start(W)
        with torch.no_grad():
            quantizer.s.fill_(6 / 2**bits)
    levels, W_hat = levels_of(quantizer, W), quantizer.quantize(quantizer.preprocess(W), W)
    assert levels.dtype == torch.uint8
    pairs = set(zip(levels.tolist(), W_hat.tolist(), strict=True))
    assert len(pairs) == len(levels.unique()) == len(W_hat.unique()) > 2**bits / 2


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_level_follows_the_discrete_value_and_not_the_scale(name):
    quantizer, W = get_quantizer(name), torch.linspace(-0.9, 1.0, 41)
    if isinstance(quantizer, nn.Module):
        quantizer.start(W)
    levels, distance = levels_of(quantizer, W), error(quantizer, W).abs().mean()
    assert len(levels.unique()) == 2 + (name in ("ternary", "TTQ"))
    with torch.no_grad():
        for p in quantizer.parameters() if isinstance(quantizer, nn.Module) else ():
            p *= 0.5
    if name != "dorefa":  # whose W_hat has no scale
        torch.testing.assert_close(levels_of(quantizer, W / 2), levels)
        torch.testing.assert_close(error(quantizer, W / 2).abs().mean(), distance / 2)


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


def test_a_weight_of_zero_has_the_level_of_its_sign():
    """sign(0) is +1: a weight that goes from 0 to 0.5 does not flip."""
    quantizer, W = get_quantizer("dorefa"), torch.tensor([-0.5, 0.0, 0.5])
    assert quantizer.quantize(quantizer.preprocess(W)).tolist() == [-1, 1, 1]
    assert levels_of(quantizer, W).tolist() == [0, 1, 1]
