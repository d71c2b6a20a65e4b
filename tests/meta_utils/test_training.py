"""The loop: STE against torch.optim, the weights of both orders' forwards, and a loss that is not finite."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training_loops import PUBLISHED, Spy, make_loop, one_iteration

from meta_utils.adam import Adam
from meta_utils.helpers import update_parameters
from meta_utils.metaquantize import metaquantize
from meta_utils.not_finite import NotFinite
from meta_utils.SGD import SGD
from utils.choices import META_NETWORKS, OPTIMIZEES
from utils.quantize import get_quantizer


@pytest.mark.parametrize("quantizer", [None, *PUBLISHED])
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("SGD", partial(torch.optim.SGD, lr=0.05)),
        ("SGD-M", partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4)),
        ("Nesterov", partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)),
        ("Adam", partial(torch.optim.Adam, lr=1e-3)),
        ("AMSGrad", partial(torch.optim.Adam, lr=1e-3, amsgrad=True)),
    ],
)
def test_ste_equals_torch_optim_with_autograd(quantizer, name, theirs, tiny_net, batches):
    reference = copy.deepcopy(tiny_net)
    optimizer = theirs(reference.parameters())
    choice = OPTIMIZEES[name]
    options = {"lr": optimizer.defaults["lr"], "weight_decay": choice.decay_ste, **choice.options_ste}
    loop = make_loop(tiny_net, quantizer=quantizer, optimizee=choice.build(tiny_net.parameters(), **options))
    for images, targets in batches(10):
        loss, _ = loop.step(images, targets)
        optimizer.zero_grad()
        expected = F.cross_entropy(reference(images, quantizer), targets)
        expected.backward()
        optimizer.step()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for (name, p), q in zip(tiny_net.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-10, msg=name)


def test_order_changes_nothing_for_ste(tiny_net, batches):
    other = copy.deepcopy(tiny_net)
    loops = [make_loop(tiny_net), make_loop(other, order="paper")]
    for batch in batches(3):
        losses = [loop.step(*batch)[0] for loop in loops]
        assert torch.equal(*losses)


@pytest.mark.parametrize("method", META_NETWORKS)
@pytest.mark.parametrize("optimizee", [SGD, Adam])
def test_order_paper_computes_with_the_weights_after_the_update(method, optimizee, tiny_net, batches):
    loop = make_loop(tiny_net, method, optimizee=optimizee(tiny_net.parameters(), lr=0.05), order="paper")
    spy = loop.training_quantizer = Spy(loop.training_quantizer)
    biases = []
    tiny_net.fc.register_forward_hook(
        lambda layer, inputs, output: biases.append(output.detach() - inputs[0] @ layer.quantized_weight.t())
    )
    for t, batch in enumerate(batches(4)):
        before = [layer.weight.detach().clone() for layer in tiny_net.meta.layers]
        loop.step(*batch)
        for W_used, layer, W in zip(spy.seen, tiny_net.meta.layers, before, strict=True):
            assert torch.equal(W_used, layer.weight), layer.name
            assert torch.equal(W, W_used) == (t == 0), layer.name
        torch.testing.assert_close(biases[-1], tiny_net.fc.bias.expand_as(biases[-1]))


@pytest.mark.parametrize("quantizer", PUBLISHED)
@pytest.mark.parametrize("method", META_NETWORKS)
def test_order_notebook_computes_with_the_previous_refined_gradient(method, quantizer, tiny_net, batches):
    loop = make_loop(tiny_net, method, quantizer)
    spy = loop.training_quantizer = Spy(loop.training_quantizer)
    for t, batch in enumerate(batches(3)):
        W = [layer.weight.detach().clone() for layer in tiny_net.meta.layers]
        r = [layer.weight.grad for layer in tiny_net.meta.layers]
        loop.step(*batch)
        for W_used, layer, W_old, r_old in zip(spy.seen, tiny_net.meta.layers, W, r, strict=True):
            assert torch.equal(W_used, W_old if t == 0 else W_old.sub(r_old, alpha=0.05))
            g_W = layer.calibration * layer.pre_quantized_grads if t else layer.weight.grad
            torch.testing.assert_close(layer.weight.grad, g_W)
            torch.testing.assert_close(layer.weight, W_old - (0.05 * g_W if t else 0))


class ConvAndLinear(torch.nn.Module):
    """A convolution with two filters of two weights and a linear layer of 3 x 2."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = torch.nn.Conv2d(2, 2, 1, bias=False), torch.nn.Linear(2, 3)

    def forward(self, inputs):
        return self.fc(self.conv(inputs).mean(dim=(2, 3)))


def test_bwnf_scales_convolutions_by_the_stored_weight_and_linear_layers_by_the_forwards():
    """By hand: in the forward W' = W - alpha r with alpha = 1/2."""
    net = metaquantize(ConvAndLinear()).double()
    with torch.no_grad():
        net.conv.weight.copy_(torch.tensor([[1.0, -3.0], [2.0, 6.0]]).view(2, 2, 1, 1))
        net.fc.weight.copy_(torch.tensor([[1.0, -3.0], [2.0, 6.0], [5.0, 7.0]]))
    net.conv.weight.grad = torch.tensor([[-2.0, 2.0], [8.0, 4.0]]).double().view(2, 2, 1, 1)
    net.fc.weight.grad = torch.tensor([[-2.0, 2.0], [8.0, 4.0], [-4.0, -2.0]]).double()
    gradients = {layer.name: ((), torch.zeros_like(layer.weight), None) for layer in net.meta.layers}
    net(torch.ones(1, 2, 1, 1).double(), get_quantizer("BWN-F"), gradients, lr=0.5)
    assert net.conv.pre_quantized_weight.flatten().tolist() == [2, -4, -2, 4]
    assert net.conv.quantized_weight.flatten().tolist() == [2, -2, -4, 4]  # mean|W| of each filter
    assert net.fc.pre_quantized_weight.flatten().tolist() == [2, -4, -2, 4, 7, 8]
    assert net.fc.quantized_weight.flatten().tolist() == [4.5, -4.5, -4.5, 4.5, 4.5, 4.5]  # mean|W'|; mean|W| is 4


def test_bwnf_in_the_notebooks_order(batches):
    torch.manual_seed(3)
    net = metaquantize(ConvAndLinear()).double()
    loop = make_loop(net, "FC-Grad", "BWN-F", optimizee=SGD(net.parameters(), lr=0.5))
    for t, (images, targets) in enumerate(batches(4)):
        stored = [layer.weight.detach().clone() for layer in net.meta.layers]
        used = [W if t == 0 else W - 0.5 * layer.weight.grad for W, layer in zip(stored, net.meta.layers, strict=True)]
        loop.step(images[:, :2], targets % 3)
        scale = stored[0].abs().mean(dim=(1, 2, 3), keepdim=True)
        torch.testing.assert_close(net.conv.quantized_weight, scale * used[0].sign(), rtol=1e-12, atol=0)
        torch.testing.assert_close(net.fc.quantized_weight, used[1].abs().mean() * used[1].sign(), rtol=1e-12, atol=0)
        assert torch.equal(used[1], stored[1]) == (t == 0)


@pytest.mark.parametrize("quantizer", PUBLISHED)
def test_ste_shows_the_gradient_at_w_tilde_as_autograd_made_it(quantizer, tiny_net, batches):
    """Also where W_tilde is W and the optimizee refines W's gradient in place."""
    (batch,) = batches(1)
    reference = copy.deepcopy(tiny_net)
    one_iteration(reference, batch, quantizer)
    loop = make_loop(tiny_net, quantizer=quantizer, optimizee=SGD(tiny_net.parameters(), lr=0.05, weight_decay=0.5))
    loop.step(*batch)
    slope = 0.5 if quantizer == "dorefa" else 1.0  # dW_tilde/dW over the calibration, which absorbs the 2 of Q
    for layer, other in zip(reference.meta.layers, tiny_net.meta.layers, strict=True):
        expected = layer.weight.grad / (slope * get_quantizer(quantizer).calibration(layer.weight))
        torch.testing.assert_close(other.pre_quantized_grads, expected)


class Through:
    """A quantizer that hands the gradient at W_hat on to W as it is: autograd may make the very tensor weight.grad."""

    def preprocess(self, W, layout):
        return W

    def quantize(self, W_tilde, W, layout):
        return W_tilde + (W_tilde.sign() - W_tilde).detach()

    def calibration(self, W, layout):
        return torch.ones_like(W)


@pytest.mark.parametrize("method", ["STE", "FC-Grad"])
def test_refining_in_place_leaves_the_gradient_at_w_hat_alone(method, tiny_net, batches):
    """At t = 0, whose g_W_hat M takes at t = 1."""
    (batch,) = batches(1)
    reference = copy.deepcopy(tiny_net)
    one_iteration(reference, batch, Through())
    loop = make_loop(tiny_net, method, quantizer=Through(), optimizee=Adam(tiny_net.parameters()))
    loop.step(*batch)
    for layer, other in zip(reference.meta.layers, tiny_net.meta.layers, strict=True):
        torch.testing.assert_close(other.quantized_grads, layer.weight.grad)
        assert not torch.equal(other.weight.grad, layer.weight.grad)


def test_update_parameters_steps_every_parameter_with_a_gradient(tiny_net):
    before = {name: p.detach().clone() for name, p in tiny_net.named_parameters()}
    for name, p in tiny_net.named_parameters():
        p.grad = None if name == "fc.bias" else torch.ones_like(p)
    update_parameters(tiny_net, 0.5)
    for name, p in tiny_net.named_parameters():
        np.testing.assert_array_equal(p.detach(), before[name] - (0.0 if name == "fc.bias" else 0.5))


@pytest.mark.parametrize(("method", "order"), [("STE", "notebook"), ("FC-Grad", "notebook"), ("FC-Grad", "paper")])
@pytest.mark.parametrize("place", ["conv1", "layer2.0.bn1", "layer3.0.conv2"])
def test_a_loss_that_is_not_finite_names_the_layer_and_updates_nothing(place, method, order, tiny_net, batches):
    loop = make_loop(tiny_net, method, order=order)
    first, second, third = batches(3)
    loop.step(*first)
    loop.step(*second)
    with torch.no_grad():
        tiny_net.get_submodule(place).weight[0] = float("nan")
    before = {name: p.clone() for name, p in tiny_net.named_parameters()}
    with pytest.raises(NotFinite) as stopped:
        loop.step(*third)
    assert stopped.value.args == ("nan", f"first in layer {place}")
    assert loop.iteration == 2
    for name, p in tiny_net.named_parameters():
        assert torch.equal(p.nan_to_num(7), before[name].nan_to_num(7)), name
