"""Parameter groups with learning rates of their own, in every order of the loop."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from training_loops import Spy, make_loop

from meta_utils.adam import Adam
from meta_utils.install import install_quantizer, parameter_groups
from meta_utils.meta_network import MetaFC
from meta_utils.SGD import SGD
from meta_utils.training import TrainingLoop
from utils.choices import META_NETWORKS, OPTIMIZEES
from utils.quantize import get_quantizer

GROUPS = {"conv1.weight": 0.0, "layer1.0.bn1.bias": 0.0, "layer2.0.conv1.weight": 0.5, "fc.bias": 0.25, "fc.weight": 0.0}
LEFT_OUT = ("layer3.0.conv1.weight", "bn1.weight")  # in no group


def groups_of(net, rates=GROUPS, rest=0.05, left_out=LEFT_OUT):
    """Parameter groups by learning rate, and each parameter's learning rate by name."""
    alphas = {name: 0.0 if name in left_out else rates.get(name, rest) for name, _ in net.named_parameters()}
    members = {name: p for name, p in net.named_parameters() if name not in left_out}
    groups = [
        {"params": [p for name, p in members.items() if alphas[name] == alpha], "lr": alpha} for alpha in set(alphas.values())
    ]
    return groups, alphas


@pytest.mark.parametrize("name", ["SGD-M", "Adam"])
def test_groups_have_their_own_learning_rates_with_ste(name, tiny_net, batches):
    reference = copy.deepcopy(tiny_net)
    theirs = {"SGD-M": partial(torch.optim.SGD, momentum=0.9), "Adam": torch.optim.Adam}[name](groups_of(reference)[0])
    choice = OPTIMIZEES[name]
    loop = make_loop(tiny_net, optimizee=choice.build(groups_of(tiny_net)[0], weight_decay=0.0, **choice.options_ste))
    for images, targets in batches(3):
        loop.step(images, targets)
        theirs.zero_grad()
        F.cross_entropy(reference(images, "dorefa"), targets).backward()
        theirs.step()
    for (parameter, p), q in zip(tiny_net.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-10, msg=parameter)


@pytest.mark.parametrize(("method", "order"), [("STE", "notebook"), ("FC-Grad", "notebook"), ("FC-Grad", "paper")])
def test_the_gradient_of_a_parameter_in_no_group_is_that_of_the_last_batch(method, order, tiny_net, batches):
    """With a rate of 0 the weights stay what they are, and so does the gradient of one batch."""
    groups, _ = groups_of(tiny_net, rates={}, rest=0.0)
    loop, norms = make_loop(tiny_net, method, optimizee=SGD(groups, lr=0.0), order=order), []
    (batch,) = batches(1)
    for _ in range(3):
        loop.step(*batch)
        norms.append(tiny_net.bn1.weight.grad.norm().item())
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-9)


@pytest.mark.parametrize("order", ["notebook", "paper"])
@pytest.mark.parametrize("optimizee", [SGD, Adam])
@pytest.mark.parametrize("method", META_NETWORKS)
def test_groups_have_their_own_learning_rates(method, optimizee, order, tiny_net, batches):
    """Of the value of W', of a layer's bias, of the update, and of what phi's gradient is made of."""
    groups, alphas = groups_of(tiny_net)
    loop = make_loop(tiny_net, method, optimizee=optimizee(groups, lr=0.05), order=order)
    spy = loop.training_quantizer = Spy(loop.training_quantizer)
    meta, biases, start = tiny_net.meta, [], {name: p.detach().clone() for name, p in tiny_net.named_parameters()}
    alpha = meta.layout.flatten(torch.full_like(p, alphas[f"{p_name}.weight"]) for p_name, p in _weights(tiny_net))
    tiny_net.fc.register_forward_hook(lambda layer, x, output: biases.append(output - x[0] @ layer.quantized_weight.t()))
    for t, (images, targets) in enumerate(batches(4)):
        old = {name: p.detach().clone() for name, p in tiny_net.named_parameters()}
        r = {name: p.grad.clone() for name, p in tiny_net.named_parameters() if t}
        u = (
            t
            and spy.calibration(meta.weights(), meta.layout)
            * loop.meta_net(meta.get("g_W_hat"), meta.get("W_tilde"), loop.meta_hidden_state_dict)[0]
        )
        phi = list(loop.meta_net.parameters()) if t else []
        stepped = []
        loop.meta_optimizer.step = lambda: stepped.append([p.grad.clone() for p in phi])  # noqa: B023
        loop.step(images, targets)
        if t == 0:
            continue
        if order == "notebook":
            for (name, _), W_used in zip(_weights(tiny_net), spy.seen, strict=True):
                W = f"{name}.weight"
                torch.testing.assert_close(W_used, old[W] - alphas[W] * r[W], rtol=1e-14, atol=1e-15)
            for name, p in tiny_net.named_parameters():
                torch.testing.assert_close(p.detach(), old[name] - alphas[name] * p.grad, rtol=1e-14, atol=1e-15)
            torch.testing.assert_close(biases[-1], (old["fc.bias"] - 0.25 * r["fc.bias"]).expand_as(biases[-1]))
        else:
            for layer, W_used in zip(tiny_net.meta.layers, spy.seen, strict=True):
                assert torch.equal(W_used, layer.weight), layer.name
            torch.testing.assert_close(biases[-1], tiny_net.fc.bias.expand_as(biases[-1]))
        for found, expected in zip(stepped[0], torch.autograd.grad(u, phi, -alpha * spy.W.grad), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-14)
    for name, p in tiny_net.named_parameters():
        assert torch.equal(p, start[name]) == (alphas[name] == 0), name


def _weights(net):
    return [(layer.name, layer.weight) for layer in net.meta.layers]


@pytest.mark.parametrize("order", ["notebook", "paper"])
def test_groups_with_one_learning_rate_are_one_group(order, tiny_net, batches):
    """Bit for bit: by one number, and by a number for each parameter."""
    torch.manual_seed(0)
    meta_net = MetaFC(hidden_size=10).double()
    nets = [copy.deepcopy(tiny_net) for _ in range(3)]
    losses = []
    for index, net in enumerate(nets):
        groups = groups_of(net, dict.fromkeys(GROUPS, 0.05), left_out=())[0] if index < 2 else None
        if index == 1:  # two groups
            (only,) = groups
            groups = [{**only, "params": only["params"][:5]}, {**only, "params": only["params"][5:]}]
        loop = make_loop(net, optimizee=SGD(groups or net.parameters(), lr=0.05), meta_net=copy.deepcopy(meta_net), order=order)
        assert loop.rates == 0.05
        if index == 2:
            each = type("Each", (TrainingLoop,), {"rates": dict.fromkeys(net.parameters(), 0.05)})
            loop.__class__ = each
        losses.append([loop.step(*batch)[0].item() for batch in batches(4)])
    assert losses[0] == losses[1] == losses[2]
    for p, q, s in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p, s)


@pytest.mark.parametrize("quantizer_lr", [0.3, 0.0])
@pytest.mark.parametrize(("method", "order"), [("STE", "notebook"), ("MultiFC", "notebook"), ("MultiFC", "paper")])
@pytest.mark.parametrize(("quantizer", "optimizee"), [("LSQ", SGD), ("LSQ", Adam), ("TTQ", SGD)])
def test_a_quantizers_parameters_have_their_own_learning_rate(
    quantizer, method, order, optimizee, quantizer_lr, tiny_net, batches
):
    """They are updated when all parameters are; the forward computes with the values from before, as in batch normalisation."""
    quantizer = install_quantizer(tiny_net, get_quantizer(quantizer, 2))
    groups, alpha = parameter_groups(tiny_net, quantizer_lr), quantizer_lr
    loop = make_loop(tiny_net, method, quantizer, optimizee(groups, lr=0.05, weight_decay=0.5), order=order)
    spy = loop.training_quantizer = Spy(quantizer)
    for t, batch in enumerate(batches(3)):
        old = {name: p.detach().clone() for name, p in quantizer.named_parameters()}
        before = {name: p.grad.clone() for name, p in quantizer.named_parameters() if t}
        loop.step(*batch)
        with torch.no_grad():
            expected = quantizer_with(quantizer, old).quantize(spy.layout.flatten(spy.seen), None, spy.layout)
        assert torch.equal(tiny_net.meta.get("W_hat"), expected)
        for name, p in quantizer.named_parameters():
            if method != "STE" and t == 0:
                assert torch.equal(p, old[name])
            elif order == "notebook":  # .grad is refined
                torch.testing.assert_close(p.detach(), old[name] - alpha * p.grad, rtol=1e-14, atol=1e-15)
            elif optimizee is SGD:  # .grad is that of the new forward; no weight decay, so that pi is the identity
                torch.testing.assert_close(p.detach(), old[name] - alpha * before[name], rtol=1e-14, atol=1e-15)
            assert torch.equal(p, old[name]) == (alpha == 0 or (method != "STE" and t == 0)), name


def quantizer_with(quantizer, values):
    """A copy of a quantizer with other values of its parameters."""
    other = copy.deepcopy(quantizer)
    other.load_state_dict(values)
    return other


@pytest.mark.parametrize(("method", "order"), [("STE", "notebook"), ("FC-Grad", "notebook"), ("FC-Grad", "paper")])
def test_a_parameter_in_no_group_stays_where_all_others_have_one_learning_rate(method, order, tiny_net, batches):
    members = [p for name, p in tiny_net.named_parameters() if name not in LEFT_OUT]
    loop = make_loop(tiny_net, method, optimizee=SGD(members, lr=0.05), order=order)
    start = {name: p.detach().clone() for name, p in tiny_net.named_parameters()}
    for batch in batches(3):
        loop.step(*batch)
    for name, p in tiny_net.named_parameters():
        assert torch.equal(p, start[name]) == (name in LEFT_OUT), name
