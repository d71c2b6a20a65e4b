"""Mistakes in what a loop is made of: each is named before the first iteration, or in it."""

import pytest
import torch
from torch import nn

from meta_utils.estimators import EDE
from meta_utils.install import install_quantizer
from meta_utils.meta_network import MetaFC
from meta_utils.metaquantize import metaquantize
from meta_utils.SGD import SGD
from meta_utils.training import TrainingLoop
from utils.discretize import Estimator
from utils.quantize import BWN
from utils.trained_quantizers import LSQ

IMAGES, TARGETS = torch.ones(2, 3), torch.tensor([0, 1])


def net_and_optimizee():
    net = metaquantize(nn.Sequential(nn.Linear(3, 3)))
    return net, SGD(net.parameters(), lr=0.1)


def learned(M=None):
    return M or MetaFC(), torch.optim.Adam(nn.Linear(1, 1).parameters())


class NoCall(Estimator):
    pass


class NoCalibration:
    bits = 1
    preprocess, quantize = BWN.preprocess, BWN.quantize


@pytest.mark.parametrize(
    ("arguments", "how", "words"),
    [
        ((BWN(), EDE()), {"iterations": 2}, "EDE is a fixed estimator: estimator=EDE()"),
        ((BWN(), MetaFC()), {}, "a meta network and its optimizer"),
        ((None, *learned()), {}, "takes a quantizer"),
        ((NoCalibration(), *learned()), {}, "the calibration of the quantizer"),
        ((BWN(),), {"estimator": EDE}, "EDE is a class"),
        ((BWN(),), {"estimator": EDE()}, "how many iterations"),
        ((BWN(),), {"estimator": NoCall()}, "NoCall does not define __call__"),
        ((BWN(),), {"clip": 0.0}, "clip must be above 0"),
        ((BWN(),), {"freeze_phi_after": 1}, "no phi to freeze"),
        ((LSQ(2),), {}, "install_quantizer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_go_together_is_named(arguments, how, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(")", r"\)")):
        TrainingLoop(*net_and_optimizee(), *arguments, **how)


def test_a_plain_net_and_an_optimizer_of_torch_are_named():
    net, optimizee = net_and_optimizee()
    with pytest.raises(ValueError, match="the net Linear is not metaquantized"):
        TrainingLoop(nn.Linear(3, 3), optimizee, BWN())
    with pytest.raises(ValueError, match=r"torch\.optim\.sgd\.SGD .* take an optimizee"):
        TrainingLoop(net, torch.optim.SGD(net.parameters()), BWN())


def test_an_optimizee_that_was_made_before_the_quantizer_is_named():
    net, optimizee = net_and_optimizee()
    quantizer = install_quantizer(net, LSQ(2))
    with pytest.raises(ValueError, match=r"no optimizee trains s of .*LSQ"):
        TrainingLoop(net, optimizee, quantizer)
    quantizer.requires_grad_(False)  # which says that it is meant
    TrainingLoop(net, optimizee, quantizer).step(IMAGES, TARGETS)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda g: g, "its state, a dict; it returned Tensor"),
        (lambda g: (g[:-1], {}), r"with the shape of g_W_hat, \(9,\), not \(8,\)"),
        (lambda g: (None, {}), r"with the shape of g_W_hat, \(9,\), not NoneType"),
    ],
)
def test_what_M_must_return_is_said(returned, words):
    class Own(MetaFC):
        def forward(self, g_W_hat, W_tilde, state=None):
            return returned(g_W_hat)

    loop = TrainingLoop(*net_and_optimizee(), BWN(), *learned(Own()))
    loop.step(IMAGES, TARGETS)
    with pytest.raises(ValueError, match=f"Own must return .*{words}"):
        loop.step(IMAGES, TARGETS)


def test_a_loss_for_each_image_is_named():
    loop = TrainingLoop(*net_and_optimizee(), BWN(), criterion=nn.CrossEntropyLoss(reduction="none"))
    with pytest.raises(ValueError, match=r"criterion must return a scalar, not a tensor of shape \(2,\)"):
        loop.step(IMAGES, TARGETS)


def test_progress_ends_at_1():
    """Also where a loop goes on for longer than it said."""
    loop = TrainingLoop(*net_and_optimizee(), BWN(), estimator=EDE(), iterations=2)
    found = []
    for _ in range(4):
        found.append(loop.progress.item())
        loop.step(IMAGES, TARGETS)
    assert found == [0.0, 0.5, 1.0, 1.0]
    loop.load_state_dict(loop.state_dict())
    assert loop.progress == 1
