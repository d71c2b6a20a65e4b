"""The gradients that M makes and the gradient of phi, against STE, autograd and finite differences."""

import copy

import pytest
import torch
import torch.nn.functional as F
from training_loops import PUBLISHED, make_loop, one_iteration

from meta_utils.helpers import assign_meta_gradients, meta_gradient_generation
from meta_utils.meta_network import MetaFC, MetaNetwork
from meta_utils.SGD import SGD
from utils.choices import META_NETWORKS
from utils.quantize import get_quantizer


@pytest.mark.parametrize("order", ["notebook", "paper"])
def test_identity_start_fc_grad_gives_unclipped_ste_at_t1(order, tiny_net, batches):
    """dorefa's W_tilde lies in [0, 1], so that its STE never clips: the learned g_W is the one autograd gives."""
    first, second = batches(2)
    reference = copy.deepcopy(tiny_net)
    one_iteration(reference, first, "dorefa")
    loop = make_loop(tiny_net, "FC-Grad", meta_net=MetaFC(init="identity").double(), order=order)
    loop.step(*first)
    loop.step(*second)
    for layer, other in zip(tiny_net.meta.layers, reference.meta.layers, strict=True):
        torch.testing.assert_close(layer.calibration * layer.pre_quantized_grads, other.weight.grad, rtol=1e-6, atol=1e-12)


class Indicator(MetaNetwork):
    """M = g_W_hat * s * 1(|W_tilde| <= 1), s = phi: with s = 1 the clipped STE."""

    def __init__(self):
        super().__init__()
        self.s = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, g_W_hat, W_tilde, state=None):
        return self.s * g_W_hat * (W_tilde.abs() <= 1), {}


@pytest.mark.parametrize("quantizer", PUBLISHED)
def test_an_indicator_as_m_equals_clipped_ste(quantizer, tiny_net, batches):
    """g_W of the indicator is autograd's; BWN's autograd also multiplies with the scale, a constant per tensor or filter."""
    with torch.no_grad():
        for p in tiny_net.parameters():
            p.mul_(4)  # some |W| > 1
    first, second = batches(2)
    reference = copy.deepcopy(tiny_net)
    one_iteration(reference, first, quantizer)
    loop = make_loop(tiny_net, "indicator", quantizer, meta_net=Indicator())
    loop.step(*first)
    loop.step(*second)
    clipped_some = False
    for layer, other in zip(tiny_net.meta.layers, reference.meta.layers, strict=True):
        scale = 1.0 if quantizer == "dorefa" else other.quantized_weight.abs()
        torch.testing.assert_close(scale * layer.calibration * layer.pre_quantized_grads, other.weight.grad)
        clipped_some |= bool((other.pre_quantized_weight.abs() > 1).any())
    assert clipped_some == (quantizer != "dorefa")


@pytest.mark.parametrize("order", ["notebook", "paper"])
@pytest.mark.parametrize("method", META_NETWORKS)
def test_phi_has_a_gradient_from_t1_on(method, order, tiny_net, batches):
    loop = make_loop(tiny_net, method, order=order)
    phi = [p.detach().clone() for p in loop.meta_net.parameters()]
    for t, batch in enumerate(batches(3)):
        loop.step(*batch)
        for (name, p), old in zip(loop.meta_net.named_parameters(), phi, strict=True):
            assert (p.grad is None) == (t == 0)
            no_state_yet = "weight_hh" in name and t == 1  # the LSTM's first h is zero
            assert torch.equal(p, old) == (t == 0 or no_state_yet)


class Surrogate:
    """dorefa in which the step of Q is replaced by a line with the value and the slope of its STE at the weights W_0 (flat)."""

    def __init__(self, quantizer, W_0):
        self.quantizer, self.W_0 = quantizer, W_0

    def preprocess(self, W, layout):
        return torch.tanh(W) / (2 * layout.abs_max(torch.tanh(self.W_0))) + 0.5

    def quantize(self, W_tilde, W, layout):
        at = self.quantizer.preprocess(self.W_0, layout)
        return self.quantizer.quantize(at, None, layout) + 2 * (W_tilde - at)


@pytest.mark.parametrize("method", META_NETWORKS)
def test_phis_gradient_agrees_with_finite_differences_of_the_loss(method, tiny_net, batches):
    """Through the STE surrogate: Q replaced by the line that STE takes it for, everything else as the loop computes it."""
    quantizer = get_quantizer("dorefa")
    loop = make_loop(tiny_net, method, optimizee=SGD(tiny_net.parameters(), lr=0.3))
    data = batches(3)
    for batch in data[:2]:
        loop.step(*batch)
    images, targets = data[2]
    meta, meta_net, hidden = tiny_net.meta, loop.meta_net, loop.meta_hidden_state_dict
    g_W_hat, W_tilde, layout = meta.shown["g_W_hat"], meta.shown["W_tilde"], meta.layout
    with torch.no_grad():
        W = meta.weights()
        r = layout.flatten(layer.weight.grad for layer in meta.layers)
        bias = tiny_net.fc.bias - 0.3 * tiny_net.fc.bias.grad
        c = quantizer.calibration(W, layout)
        u_0 = c * meta_net(g_W_hat, W_tilde, hidden)[0]
    W_0 = W - 0.3 * r
    state = copy.deepcopy(tiny_net.state_dict())
    frozen = copy.deepcopy(tiny_net)
    surrogate = Surrogate(quantizer, W_0)

    @torch.no_grad()
    def loss_of_phi():
        """W' = W - alpha (u(phi) + r - u(phi_0)), then the surrogate."""
        u = c * meta_net(g_W_hat, W_tilde, hidden)[0]
        frozen.load_state_dict(state)
        for layer, W_prime in zip(frozen.meta.layers, layout.split(W_0 - 0.3 * (u - u_0)), strict=True):
            layer.weight.copy_(W_prime)
        frozen.fc.bias.copy_(bias)
        return F.cross_entropy(frozen(images, surrogate), targets).item()

    # the loop's own gradient, kept from being applied
    loop.meta_optimizer.step = lambda: None
    expected = loss_of_phi()
    assert loop.step(images, targets)[0].item() == pytest.approx(expected, rel=1e-12)
    generator = torch.Generator().manual_seed(3)
    for p in meta_net.parameters():
        direction = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                p.add_(direction, alpha=sign * 1e-4)
            losses.append(loss_of_phi())
            with torch.no_grad():
                p.sub_(direction, alpha=sign * 1e-4)
        slope = (losses[0] - losses[1]) / 2e-4
        assert (p.grad * direction).sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-9)


def test_meta_gradients_come_as_the_notebooks_dict_too(tiny_net, batches):
    """Views by name, made when asked for; a plain dict of other gradients is used in the place of M's."""
    images, targets = batches(1)[0]
    F.cross_entropy(tiny_net(images, "dorefa"), targets).backward()
    meta_net = MetaFC(hidden_size=10).double()
    grads, _ = meta_gradient_generation(meta_net, tiny_net, "FC-Grad", {})
    doubled = {name: (path, 2 * g, bias) for name, (path, g, bias) in grads.items()}
    assert list(grads) == list(tiny_net_names := [name for name, _ in tiny_net.layer_name_list])
    assert len(grads) == len(tiny_net_names)
    path, g_W_tilde, bias_grad = grads["fc"]
    assert (path, g_W_tilde.shape, bias_grad) == (("fc",), tiny_net.fc.weight.shape, tiny_net.fc.bias.grad)
    assert g_W_tilde.requires_grad
    with pytest.raises(KeyError, match="bn1"):
        grads["bn1"]
    with pytest.raises(RuntimeError, match="not calibrated yet"):
        assign_meta_gradients(tiny_net, grads)
    grads.calibrate(get_quantizer("dorefa"), tiny_net.meta.weights())
    tiny_net(images, "dorefa", doubled, 0.1)
    for name, (_, g, _) in doubled.items():
        torch.testing.assert_close(tiny_net.get_submodule(name).pre_quantized_grads, g.detach())


def test_an_evaluation_with_meta_gradients_changes_nothing_that_the_layers_show(tiny_net, batches):
    first, second, third = batches(3)
    loop = make_loop(tiny_net, "FC-Grad")
    loop.step(*first)
    loop.step(*second)
    kept = dict(tiny_net.meta.shown)
    meta_grad_dict, _ = meta_gradient_generation(loop.meta_net, tiny_net, "FC-Grad", {})
    tiny_net.eval()
    outputs = tiny_net(third[0], "dorefa", meta_grad_dict, 10.0)
    assert not torch.equal(outputs, tiny_net(third[0], "dorefa"))
    assert tiny_net.meta.shown.keys() == kept.keys()
    assert all(value is kept[symbol] for symbol, value in tiny_net.meta.shown.items())
