"""What metaquantize cannot quantize, and nets and quantizers that change afterwards: each is named."""

import pytest
import torch
from little_nets import Shares, Twice
from torch import nn
from torch.nn.utils import parametrizations, prune

from meta_utils.metaquantize import metaquantize
from models_CIFAR.resnet import ResNet
from utils.errors import BadPart
from utils.quantize import BWN


@pytest.mark.parametrize(
    ("net", "keep", "named"),
    [
        (Twice(), ["conv", "norm"], "'norm' matches no layer of Twice, which has conv, fc"),
        (Twice(), ["*"], "keep leaves no layer of Twice"),
        (Twice(), "conv", "list of patterns, not the text 'conv'"),
        (Shares(), ["second"], "first"),
        (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192)), [], "Sequential has no convolution"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), [], "layer 1 is built lazily"),
        (nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3))), [], "layer 0: its weight is no parameter"),
        (metaquantize(Twice()), [], "the net is metaquantized already"),
        (nn.Sequential(metaquantize(Twice())), [], "0 is metaquantized already"),
    ],
)
def test_what_cannot_be_quantized_is_named(net, keep, named):
    with pytest.raises(ValueError, match=named.replace("*", r"\*")) as error:
        metaquantize(net, keep)
    assert "\n" not in str(error.value)


def test_weights_that_cannot_be_one_flat_vector_are_named():
    linear = nn.Linear(3, 3)
    for net, words in (
        (nn.Sequential(linear, nn.Linear(3, 3).double()), "layer 1: its weight is torch.float64, and that of 0 torch.float32"),
        (nn.Sequential(nn.Linear(3, 3).bfloat16()), "layer 0: its weight is torch.bfloat16, not float32 or float64"),
        (nn.Sequential(nn.Linear(3, 3, dtype=torch.complex64)), "layer 0: its weight is torch.complex64"),
        (nn.Sequential(linear, nn.Linear(3, 0)), r"layer 1: its weight, \(0, 3\), has no number"),
    ):
        with pytest.raises(ValueError, match=words):
            metaquantize(net)
        assert not hasattr(net, "meta")
    net = metaquantize(nn.Sequential(nn.Linear(3, 3)))
    net(torch.ones(1, 3), "BWN")
    with pytest.raises(ValueError, match=r"torch\.bfloat16, not float32 or float64"):
        net.bfloat16()(torch.ones(1, 3).bfloat16(), "BWN")


def test_a_part_of_a_metaquantized_net_is_metaquantized_already():
    net = metaquantize(nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(ValueError, match="the net is metaquantized already"):
        metaquantize(net[0])


def test_a_net_with_an_attribute_of_that_name_keeps_it():
    net = Twice()
    net.meta = "its own"
    with pytest.raises(ValueError, match="attribute meta of its own"):
        metaquantize(net)
    assert net.meta == "its own"
    assert type(net.conv) is nn.Conv2d


def test_a_layer_that_is_replaced_afterwards_is_named(batches):
    ((images, _),) = batches(1)
    for change in (
        lambda net: setattr(net, "fc", nn.Linear(64, 10)),
        lambda net: parametrizations.weight_norm(net.fc),
        lambda net: prune.l1_unstructured(net.fc, "weight", 0.5),
    ):
        net = metaquantize(ResNet(8).double())
        change(net)
        with pytest.raises(RuntimeError, match="fc is not the layer any more that metaquantize saw"):
            net(images, "BWN")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quantize": lambda self, W_tilde, *others: W_tilde.detach().sign()}, "quantize returned a tensor without a gradient"),
        ({"quantize": lambda self, W_tilde, *others: W_tilde[:1]}, r"quantize must return .* \(9,\) torch.float32, not \(1,\)"),
        ({"quantize": lambda self, W_tilde, *others: None}, "quantize must return .*, not NoneType"),
        ({"preprocess": lambda self, W, layout: W.double()}, "preprocess must return .*, not .*float64"),
    ],
)
def test_a_quantizer_that_returns_something_else_is_named(change, words):
    net, quantizer = metaquantize(nn.Sequential(nn.Linear(3, 3))), type("Odd", (BWN,), change)()
    with pytest.raises(BadPart, match=f"Odd.{words}"):
        net(torch.ones(1, 3), quantizer)
    if "without a gradient" in words:
        net.eval()(torch.ones(1, 3), quantizer)
        net.train().requires_grad_(False)(torch.ones(1, 3), quantizer)
