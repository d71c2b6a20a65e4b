"""phi frozen after so many iterations: M goes on to make gradients as it is, and nothing of it is trained."""

import copy

import pytest
import torch
from torch import nn
from training_loops import make_loop

from meta_utils.meta_network import MetaFC
from meta_utils.metaquantize import metaquantize
from meta_utils.training import TrainingLoop
from utils.choices import META_NETWORKS

ORDERS = ("notebook", "paper")


def phi_of(loop):
    return [p.detach().clone() for p in loop.meta_net.parameters()]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("method", META_NETWORKS)
def test_phi_and_its_moments_stay_from_then_on(method, order, tiny_net, batches):
    loop = make_loop(tiny_net, method, order=order)
    loop.freeze_phi_after = 3
    for t, batch in enumerate(batches(5)):
        before, moments = phi_of(loop), copy.deepcopy(loop.meta_optimizer.state_dict()["state"])
        W = loop.net.meta.weights().detach().clone()
        loop.step(*batch)
        moved = any(not torch.equal(old, new) for old, new in zip(before, phi_of(loop), strict=True))
        assert moved == (t in (1, 2))
        assert torch.equal(loop.net.meta.weights(), W) == (t == 0)
        if t >= 3:
            assert all(p.grad is None for p in loop.meta_net.parameters())
            torch.testing.assert_close(loop.meta_optimizer.state_dict()["state"], moments, rtol=0, atol=0)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("method", META_NETWORKS)
def test_frozen_from_the_start_is_gamma_zero(method, order, tiny_net, batches):
    """Bit for bit, LSTMFC's state included: freezing leaves out what would change phi, and nothing else."""
    ends = []
    for frozen in (True, False):
        torch.manual_seed(1)
        loop = make_loop(copy.deepcopy(tiny_net), method, order=order, meta_lr=1e-2 if frozen else 0.0)
        loop.freeze_phi_after = 0 if frozen else None
        losses = [loop.step(*batch)[0] for batch in batches(4)]
        ends.append([losses, *(loop.state_dict()[name] for name in ("net", "meta_net", "meta_hidden_state_dict"))])
    torch.testing.assert_close(*ends, rtol=0, atol=0)
    assert bool(ends[0][-1]) == (method == "LSTMFC")


def test_a_frozen_m_keeps_no_graph(tiny_net, batches):
    loop = make_loop(tiny_net, "LSTMFC")
    loop.freeze_phi_after = 2
    learned, apply = [], type(loop.meta_net).forward
    loop.meta_net.forward = lambda *inputs: learned.append((out := apply(loop.meta_net, *inputs))[0].requires_grad) or out
    for batch in batches(4):
        loop.step(*batch)
    assert learned == [True, False, False]


def without_norms():
    """A net whose only parameters are weights that are quantized, and their layers' biases, for 8x8 images."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10)]
    return metaquantize(nn.Sequential(*layers)).double().train()


def test_frozen_at_the_identity_fc_grad_is_ste(batches):
    """With dorefa, where no weight is beyond 1, and in the order `paper`, whose forward computes with the weights and biases
    after the last gradient's step, as STE's loop does. (The parameters of batch normalisation it takes from the step before.)
    Sixteen hidden units, so that the product of M's maps is 1 exactly.
    """
    ste = make_loop(without_norms(), "STE")
    frozen = make_loop(without_norms(), "FC-Grad", meta_net=MetaFC(16, init="identity").double(), order="paper")
    frozen.freeze_phi_after = 0
    for batch in batches(6):
        before = [p.detach().clone() for p in ste.net.parameters()]
        torch.testing.assert_close(frozen.step(*batch)[0], ste.step(*batch)[0], rtol=1e-13, atol=0)
        torch.testing.assert_close([p.detach() for p in frozen.net.parameters()], before, rtol=1e-12, atol=1e-15)
    assert not torch.equal(ste.net[5].bias, before[-1])
    assert frozen.compare_with_ste() == pytest.approx((1.0, 1.0), rel=1e-12)


def test_without_m_there_is_nothing_to_freeze(tiny_net):
    loop = make_loop(tiny_net)
    with pytest.raises(ValueError, match="no phi to freeze"):
        TrainingLoop(tiny_net, loop.optimizee, loop.quantizer, freeze_phi_after=0)
