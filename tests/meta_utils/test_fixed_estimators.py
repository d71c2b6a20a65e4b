"""Fixed estimators in the loop, the loop's loss, clipping and calls after a step, and ProxQuant."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from training_loops import make_loop

from meta_utils.estimators import ESTIMATORS
from meta_utils.prox_quant import ProxQuant
from meta_utils.SGD import SGD
from meta_utils.training import TrainingLoop
from utils.layout import ONE_TENSOR
from utils.quantize import BWN, DoReFa, evaluate, get_quantizer
from utils.quantizers.discretize import Estimator

LR, TOTAL = 0.05, 5


def steps_of(quantizer, W):
    """x, q, and what W_hat = scale q + ... is in x: the factor of W_hat before the step, and dx/dW, of one weight by hand."""
    if isinstance(quantizer, DoReFa):
        tanh, levels = W.tanh(), 2**quantizer.bits - 1
        x = tanh / tanh.abs().max()
        q = 2 * ((x + 1) / 2 * levels + 0.5).floor() / levels - 1
        return x, q, 1.0, (1 - tanh**2) / tanh.abs().max(), 1.0
    return W, torch.where(W >= 0, 1.0, -1.0).to(W), W.abs().mean(), torch.ones_like(W), W.abs().mean()


def by_hand(net, quantizer, estimator, batch, progress):
    """One step of SGD of a plain copy: W_hat as leaves in the place of W, and the estimator's gradient back to W."""
    progress = torch.tensor(progress, dtype=torch.float64)
    latent, found = {}, {}
    for layer in net.meta.layers:
        W = layer.weight.detach().clone()
        x, q, scale, dx_dW, unit = steps_of(quantizer, W)
        latent[layer.name] = W
        found[layer.name] = (x, q, scale, dx_dW)
        with torch.no_grad():
            layer.weight.copy_(scale * estimator.forward_value(x / unit, q, progress))
    loss = F.cross_entropy(net(batch[0]), batch[1])
    net.zero_grad()
    loss.backward()
    for layer in net.meta.layers:
        x, q, scale, dx_dW = found[layer.name]
        seen = x / x.std(correction=0) if estimator.standardized else x
        layer.weight.grad = estimator(scale * layer.weight.grad, seen, q, progress) * dx_dW
        with torch.no_grad():
            layer.weight.copy_(latent[layer.name])
    with torch.no_grad():
        for p in net.parameters():
            p -= LR * p.grad
    return loss


@pytest.mark.parametrize("quantizer", [DoReFa(1), DoReFa(2), BWN()], ids=str)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_in_the_loop_is_its_formula(name, quantizer, tiny_net, batches):
    reference, estimator = copy.deepcopy(tiny_net), ESTIMATORS[name]
    loop = TrainingLoop(tiny_net, SGD(tiny_net.parameters(), lr=LR), quantizer, estimator=estimator, iterations=TOTAL)
    for t, batch in enumerate(batches(TOTAL)):
        loss, _ = loop.step(*batch)
        assert loss.item() == pytest.approx(by_hand(reference, quantizer, estimator, batch, t / TOTAL).item(), rel=1e-9)
    assert loop.progress == 1
    for (key, p), other in zip(tiny_net.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, other, rtol=1e-8, atol=1e-11, msg=key)


def test_bwnf_takes_estimators_too(tiny_net, batches):
    """Per filter scale outside the step: with STE's own formula as an estimator it is STE."""
    other = copy.deepcopy(tiny_net)
    loops = [make_loop(tiny_net, quantizer="BWN-F"), None]
    loops[1] = TrainingLoop(other, SGD(other.parameters(), lr=LR), get_quantizer("BWN-F"), estimator=ESTIMATORS["STE"])
    for batch in batches(3):
        assert torch.equal(*(loop.step(*batch)[0] for loop in loops))


def test_a_relaxed_forward_is_evaluated_hard(tiny_net, batches):
    loop = TrainingLoop(tiny_net, SGD(tiny_net.parameters(), lr=LR), BWN(), estimator=ESTIMATORS["BinaryRelax"], iterations=9)
    data = batches(2)
    loop.step(*data[0])
    assert len(tiny_net.fc.quantized_weight.unique()) > 2
    assert all(len(W_hat.unique()) == 2 for W_hat in tiny_net.meta.quantized(BWN()))
    hard = copy.deepcopy(tiny_net)
    with torch.no_grad():
        for layer, W_hat in zip(hard.meta.layers, tiny_net.meta.quantized(BWN()), strict=True):
            layer.weight.copy_(W_hat)
    assert evaluate(tiny_net, loop.quantizer, data) == pytest.approx(evaluate(hard, None, data))


class Sums(Estimator):
    """Returns another shape."""

    def __call__(self, g_q, x, q, progress):
        return g_q.sum()


class OwnBackward:
    """A quantizer that lets no estimator in."""

    def quantize(self, W_tilde, W=None, layout=ONE_TENSOR):
        return W_tilde


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"estimator": ESTIMATORS["EDE"]}, "EDE depends on progress"),
        ({"estimator": Sums()}, r"Sums.__call__ must return a tensor of x's shape and dtype, \(2,\) .*, not \(\)"),
        ({"estimator": ESTIMATORS["EWGS"], "quantizer": OwnBackward()}, "OwnBackward.quantize has no argument discretize"),
        ({"estimator": ESTIMATORS["EWGS"], "quantizer": None}, "needs a quantizer"),
        ({"clip": 0.0}, "clip must be above 0"),
        ({"clip": float("nan")}, "clip must be above 0"),
    ],
)
def test_impossible_loops_are_refused(changes, named, tiny_net):
    with pytest.raises(ValueError, match=named):
        TrainingLoop(**{"net": tiny_net, "optimizee": SGD(tiny_net.parameters()), "quantizer": BWN(), **changes})


def test_a_learned_gradient_takes_no_estimator(tiny_net):
    loop = make_loop(tiny_net, "FC-Grad")
    with pytest.raises(ValueError, match="cannot be combined with a fixed estimator"):
        TrainingLoop(
            tiny_net, loop.optimizee, BWN(), loop.meta_net, loop.meta_optimizer, estimator=ESTIMATORS["EWGS"], iterations=1
        )


@pytest.mark.parametrize("method", ["STE", "FC-Grad"])
def test_the_loss_is_the_criterion(method, tiny_net, batches):
    criterion = partial(F.cross_entropy, label_smoothing=0.1)
    loop = make_loop(tiny_net, method)
    loop.criterion = criterion
    images, targets = batches(1)[0]
    before = copy.deepcopy(tiny_net)
    loss, outputs = loop.step(images, targets)
    torch.testing.assert_close(outputs, before(images, "dorefa"))
    torch.testing.assert_close(loss, criterion(outputs, targets))
    assert not torch.isclose(loss, F.cross_entropy(outputs, targets))


@pytest.mark.parametrize("order", ["notebook", "paper"])
@pytest.mark.parametrize("method", ["STE", "FC-Grad", "MultiFC"])
def test_clipping_bounds_the_norm_of_what_is_refined(method, order, tiny_net, batches):
    """By SGD, whose refined gradient is the gradient: its 2-norm over all parameters is the clip, or what it is without one."""
    norms = {}
    for clip in (None, 1e-2, 1e6):
        net, moved = copy.deepcopy(tiny_net), []
        torch.manual_seed(1)
        loop = make_loop(net, method, order=order)
        loop.clip = clip
        for batch in batches(3):
            before = [p.detach().clone() for p in net.parameters()]
            loop.step(*batch)
            moved.append(
                torch.stack([(p - old).norm() / LR for p, old in zip(net.parameters(), before, strict=True)]).norm().item()
            )
        norms[clip] = moved
    assert norms[1e-2][1:] == pytest.approx([1e-2] * 2, rel=1e-3)
    assert norms[1e6] == pytest.approx(norms[None], rel=1e-9)
    assert norms[None][1] > 2e-2


@pytest.mark.parametrize(("method", "called"), [("STE", [1, 2]), ("FC-Grad", [2])])
@pytest.mark.parametrize("order", ["notebook", "paper"])
def test_calls_come_after_every_update(method, called, order, tiny_net, batches):
    calls = []

    def halve(loop):
        calls.append(loop.iteration)
        with torch.no_grad():
            loop.net.fc.bias.mul_(0.5)

    loops = [make_loop(net, method, order=order) for net in (tiny_net, copy.deepcopy(tiny_net))]
    loops[1].meta_net = copy.deepcopy(loops[0].meta_net)
    loops[0].after_step = (halve,)
    biases = []
    for loop in loops:
        biases.append([])
        for batch in batches(2):
            loop.step(*batch)
            biases[-1].append(loop.net.fc.bias.detach().clone())
    assert calls == called
    torch.testing.assert_close(biases[0][calls[0] - 1], 0.5 * biases[1][calls[0] - 1])


def test_proxquant_moves_weights_to_their_quantized_values_and_leaves_them_there(tiny_net, batches):
    quantizer, strength = BWN(), 0.01
    prox = ProxQuant(quantizer, strength=strength)
    loop = TrainingLoop(
        tiny_net,
        SGD(tiny_net.parameters(), lr=LR),
        quantizer,
        iterations=9,
        after_step=[prox],
        quantized_forward=False,
    )
    reference = copy.deepcopy(tiny_net)
    optimizer = torch.optim.SGD(reference.parameters(), lr=LR)
    for t, batch in enumerate(batches(9), start=1):
        loss, _ = loop.step(*batch)
        optimizer.zero_grad()
        expected = F.cross_entropy(reference(batch[0]), batch[1])  # in full precision
        expected.backward()
        optimizer.step()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
        with torch.no_grad():
            for W in (layer.weight for layer in reference.meta.layers):
                target = W.abs().mean() * torch.where(W >= 0, 1.0, -1.0).to(W)
                reach = LR * strength * t if t < 6 else float("inf")
                W.copy_(torch.where((W - target).abs() <= reach, target, W - reach * (W - target).sign() if t < 6 else target))
        for layer, other in zip(tiny_net.meta.layers, reference.meta.layers, strict=True):
            torch.testing.assert_close(layer.weight, other.weight, rtol=1e-9, atol=1e-12)
            assert (len(layer.weight.unique()) == 2) == (t >= 6), layer.name
    data = batches(2)
    full, quantized = evaluate(tiny_net, None, data), evaluate(tiny_net, quantizer, data)
    assert full.loss == pytest.approx(quantized.loss)


def test_proxquant_refuses_a_loop_of_unknown_length(tiny_net, batches):
    options = {"after_step": [ProxQuant(BWN())], "quantized_forward": False}
    loop = TrainingLoop(tiny_net, SGD(tiny_net.parameters(), lr=LR), BWN(), **options)
    with pytest.raises(ValueError, match="ProxQuant depends on progress: say how many iterations"):
        loop.step(*batches(1)[0])


@pytest.mark.parametrize("quantizer", [get_quantizer("ternary"), DoReFa(4), DoReFa(8)], ids=str)
def test_proxquant_refuses_a_quantizer_that_moves_its_own_values(quantizer):
    with pytest.raises(ValueError, match="ProxQuant needs a quantizer with"):
        ProxQuant(quantizer)


@pytest.mark.parametrize("quantizer", [BWN(), get_quantizer("BWN-F"), *map(DoReFa, (1, 2, 3))], ids=str)
def test_proxquant_takes_quantizers_that_keep_their_own_values(quantizer):
    assert ProxQuant(quantizer).quantizer == quantizer


def test_proxquants_own_numbers():
    """What `-meta ProxQuant` trains with, for which there is no flag."""
    assert (ProxQuant(BWN()).strength, ProxQuant(BWN()).hard_from) == (1e-4, 2 / 3)
