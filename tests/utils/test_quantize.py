"""Quantizers by their properties, and the evaluation of a quantized net."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from utils import quantize
from utils.choices import QUANTIZERS
from utils.miscellaneous import accuracy
from utils.quantize import BWN, BWNF, DoReFa, Ternary, evaluate, get_quantizer
from utils.quantizers.quantizer import ste_gradient
from utils.quantizers.trained import LSQ, TTQ

ALL = [DoReFa(bits) for bits in range(1, 9)] + [BWN(), BWNF()]
shapes = st.sampled_from([(1,), (7,), (3, 5), (2, 3, 3, 3), (4, 1, 1, 1)])
values = st.one_of(
    st.floats(-3, 3, width=32),
    st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 1e-30, -1e-30, 1e30, -1e30]),
)


@st.composite
def weights(draw):
    shape = draw(shapes)
    if draw(st.booleans()):  # constant
        return torch.full(shape, draw(values))
    return torch.from_numpy(draw(hnp.arrays(np.float32, shape, elements=values)))


def forward(quantizer, W):
    W_tilde = quantizer.preprocess(W)
    return W_tilde, quantizer.quantize(W_tilde, W)


@pytest.mark.parametrize("quantizer", ALL, ids=str)
@given(W=weights())
@settings(max_examples=60)
def test_range_levels_and_no_nan(quantizer, W):
    W_tilde, W_hat = forward(quantizer, W)
    assert W_tilde.shape == W_hat.shape == W.shape
    assert W_hat.dtype == W.dtype
    assert torch.isfinite(W_tilde).all()
    assert torch.isfinite(W_hat).all()
    assert torch.isfinite(quantizer.calibration(W)).all()
    if isinstance(quantizer, DoReFa):
        assert ((W_tilde >= 0) & (W_tilde <= 1)).all()
        assert (W_hat.abs() <= 1).all()
        levels = (W_hat + 1) / 2 * (2**quantizer.bits - 1)
        assert torch.allclose(levels, levels.round(), atol=1e-4)
        assert len(W_hat.unique()) <= 2**quantizer.bits
    else:
        assert torch.equal(W_tilde, W)
        filters = W_hat if type(quantizer) is BWNF and W.dim() == 4 else [W_hat]
        for one in filters:
            assert len(one.abs().unique()) == 1
    if quantizer.bits == 1:
        assert torch.equal(W_hat[W == 0] >= 0, torch.ones_like(W_hat[W == 0], dtype=torch.bool))  # sign(0) = +1


@pytest.mark.parametrize("quantizer", [DoReFa(1), BWN(), BWNF()], ids=str)
@given(W=weights())
@settings(max_examples=40)
def test_one_bit_is_idempotent(quantizer, W):
    _, once = forward(quantizer, W)
    _, twice = forward(quantizer, once)
    if isinstance(quantizer, DoReFa) and (once == once.flatten()[0]).all():
        assert (twice == once).all()
    assert torch.allclose(twice, once, rtol=1e-5, atol=0)


@pytest.mark.parametrize("bits", range(1, 9))
def test_dorefa_levels_are_fixed_points_of_q(bits):
    quantizer = DoReFa(bits)
    levels = torch.arange(2**bits, dtype=torch.float64) / (2**bits - 1)
    assert torch.equal(quantizer.quantize(levels), 2 * levels - 1)


@pytest.mark.parametrize("quantizer", [DoReFa(1), BWN(), BWNF()], ids=str)
def test_one_bit_layers_have_two_values_and_zero_is_positive(quantizer):
    W = torch.tensor([[-0.5, 0.0, 0.25, -0.0]])
    _, W_hat = forward(quantizer, W)
    assert (W_hat > 0).tolist() == [[False, True, True, True]]
    assert len(W_hat.unique()) == 2


def test_dorefa_numbers():
    W = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
    tanh = np.tanh([-1.0, 0.5, 2.0])
    W_tilde, W_hat = forward(DoReFa(2), W)
    np.testing.assert_allclose(W_tilde.numpy(), tanh / (2 * tanh[2]) + 0.5)
    np.testing.assert_allclose(W_hat.numpy(), [-1, 1 / 3, 1])
    np.testing.assert_allclose(DoReFa(2).calibration(W).numpy(), (1 - tanh**2) / tanh[2])


def test_bwn_and_bwnf_numbers():
    W = torch.tensor([1.0, -2.0, 3.0, -4.0]).view(2, 2, 1, 1)
    W_prime = torch.tensor([2.0, -3.0, 4.0, -11.0]).view(2, 2, 1, 1)
    assert BWN().quantize(W_prime, W).flatten().tolist() == [5, -5, 5, -5]  # mean|W'|
    assert BWNF().quantize(W_prime, W).flatten().tolist() == [1.5, -1.5, 3.5, -3.5]  # per filter, of the stored W
    assert BWNF().quantize(W_prime.flatten(1), W.flatten(1)).flatten().tolist() == [5, -5, 5, -5]  # linear: as BWN


def test_dorefas_calibration_of_the_smallest_weights_is_finite():
    """4 / max is infinite there, 1 / max is not."""
    tiny = torch.finfo(torch.float32).tiny
    W = torch.tensor([tiny, -tiny, 0.0])
    torch.testing.assert_close(DoReFa().calibration(W), torch.full((3,), 1 / tiny))


def test_one_bit_dorefa_keeps_nan():
    """So that the loss says so, too: a sign would hide it."""
    W = torch.tensor([0.3, float("nan"), -0.2])
    assert DoReFa().quantize(DoReFa().preprocess(W)).isnan().all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_dorefa_preprocess_derivative_is_half_the_calibration(bits):
    quantizer = DoReFa(bits)
    W = torch.tensor([-0.7, 0.1, 0.4, 1.5], dtype=torch.float64)
    step = 1e-6
    for i in range(3):  # the last holds the maximum, a constant for autograd
        shift = torch.zeros_like(W)
        shift[i] = step
        slope = (quantizer.preprocess(W + shift) - quantizer.preprocess(W - shift))[i] / (2 * step)
        assert slope.item() == pytest.approx(quantizer.calibration(W)[i].item() / 2, rel=1e-7)


def test_the_clipped_ste():
    W = torch.tensor([-1.5, -1.0, 0.2, 1.0, 1.1], dtype=torch.float64)
    g_W_hat = torch.arange(1.0, 6.0, dtype=torch.float64)
    inside = torch.tensor([0.0, 1, 1, 1, 0], dtype=torch.float64)
    torch.testing.assert_close(ste_gradient(BWN(), W, g_W_hat), W.abs().mean() * g_W_hat * inside)
    dorefa = DoReFa(1)
    torch.testing.assert_close(ste_gradient(dorefa, W, g_W_hat), dorefa.calibration(W) * g_W_hat)


@pytest.mark.parametrize(
    ("name", "bits"), [("dorefa", 0), ("dorefa", 9), ("dorefa", 1.5), ("dorefa", True), ("BWN", 2), ("BWN-F", 3), ("TWN", 1)]
)
def test_impossible_quantizers_are_refused(name, bits):
    with pytest.raises(ValueError, match=name if name == "TWN" else str(bits)):
        get_quantizer(name, bits)


def test_every_registered_quantizer_is_found_by_name():
    made = {name: get_quantizer(name) for name in QUANTIZERS}
    assert (type(made.pop("LSQ")), type(made.pop("TTQ"))) == (LSQ, TTQ)
    assert made == {"dorefa": DoReFa(1), "BWN": BWN(), "BWN-F": BWNF(), "ternary": Ternary()}
    assert get_quantizer("dorefa", 3) == DoReFa(3)
    assert get_quantizer(None) is None


def test_evaluation_leaves_no_trace(tiny_net, batches):
    data = batches(3)
    tiny_net.bn1.eval()  # frozen
    loss = torch.nn.functional.cross_entropy(tiny_net(data[0][0], "dorefa"), data[0][1])
    loss.backward()
    state = copy.deepcopy(tiny_net.state_dict())
    kept = dict(tiny_net.meta.shown)
    assert set(kept) == {"W_tilde", "W_hat", "g_W_tilde", "g_W_hat"}
    grads = [p.grad for p in tiny_net.parameters()]
    result = evaluate(tiny_net, "BWN", data)
    assert [name for name, module in tiny_net.named_modules() if not module.training] == ["bn1"]
    assert all(torch.equal(value, state[name]) for name, value in tiny_net.state_dict().items())
    assert tiny_net.meta.shown.keys() == kept.keys()
    assert all(value is kept[symbol] for symbol, value in tiny_net.meta.shown.items())
    assert all(p.grad is g for p, g in zip(tiny_net.parameters(), grads, strict=True))
    tiny_net.eval()
    with torch.no_grad():
        outputs = torch.cat([tiny_net(images, "BWN") for images, _ in data])
    targets = torch.cat([t for _, t in data])
    assert result.loss == pytest.approx(torch.nn.functional.cross_entropy(outputs, targets).item())
    assert result.top1 == pytest.approx(100 * (outputs.argmax(1) == targets).double().mean().item())
    assert quantize.test(tiny_net, "BWN", data, "CIFAR10") == result.top1
    assert quantize.test(tiny_net, "BWN", data, n_batches_used=1) == accuracy(outputs[:4], targets[:4])[0].item()
    with pytest.raises(ValueError, match="no batches"):
        evaluate(tiny_net, "BWN", [])


def test_topk_accuracy_counts_all_classes_where_there_are_fewer():
    output = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    assert [value.item() for value in accuracy(output, torch.tensor([1, 1]), (1, 5))] == [50.0, 100.0]


def test_bits_that_change_nothing_are_refused(monkeypatch):
    class Sign(BWN):
        def __init__(self, bits=1):
            object.__setattr__(self, "bits", bits)

    monkeypatch.setitem(QUANTIZERS, "sign", Sign)
    assert isinstance(get_quantizer("sign"), Sign)
    with pytest.raises(ValueError, match=r"sign gives the same W\^ as with 1 bit: it takes no other number of bits"):
        get_quantizer("sign", 4)


@pytest.mark.parametrize("name", ["dorefa", "LSQ"])
def test_bits_that_change_the_values_are_taken(name):
    assert [get_quantizer(name, bits).bits for bits in range(1, 9)] == list(range(1, 9))


def test_a_class_that_lacks_a_method_or_does_not_take_bits_is_named(monkeypatch):
    monkeypatch.setitem(QUANTIZERS, "lacks", lambda bits: object())
    monkeypatch.setitem(QUANTIZERS, "deaf", lambda: BWN())
    with pytest.raises(ValueError, match="the quantizer lacks has no method preprocess"):
        get_quantizer("lacks")
    with pytest.raises(ValueError, match="deaf cannot be made with 1 bit: "):
        get_quantizer("deaf")


def test_equal_numbers_of_right_answers_are_equal_accuracies(tiny_net):
    """However they are divided among the batches, in float32: the first of equally good epochs is the best one."""
    net = tiny_net.float()
    targets = torch.zeros(100, dtype=torch.int64)

    def batches_of(*right):
        """Batches of 100 images, of which so many are right: where the target is what the net says."""
        with torch.no_grad():
            images = torch.randn(100, 3, 8, 8, generator=torch.Generator().manual_seed(0))
            said = copy.deepcopy(net).eval()(images, "BWN").argmax(dim=1)
        return [(images, torch.where(torch.arange(100) < number, said, (said + 1) % 10)) for number in right]

    found = {evaluate(net, "BWN", batches_of(*right)).top1 for right in ((50, 50), (53, 47), (54, 46), (15, 85))}
    assert found == {50.0}
    outputs = torch.eye(2)[[0] * 53 + [1] * 47]
    assert accuracy(outputs, targets)[0].item() == 53.0


def test_loss_and_top_5_are_means_over_images(tiny_net, batches):
    """Also where the last batch is smaller than the others."""
    *data, (images, targets) = batches(8)
    data.append((images[:1], targets[:1]))
    result = evaluate(tiny_net, "BWN", data)
    tiny_net.eval()
    with torch.no_grad():
        outputs = torch.cat([tiny_net(images, "BWN") for images, _ in data])
    targets = torch.cat([targets for _, targets in data])
    places = (outputs > outputs.gather(1, targets[:, None])).sum(dim=1)  # of the target among the outputs, from 0
    shares = [100 * (places < k).double().mean().item() for k in (3, 4, 5, 6)]
    assert len(set(shares)) == 4
    assert result.top5 == pytest.approx(shares[2])
    assert result.loss == pytest.approx(torch.nn.functional.cross_entropy(outputs, targets).item())
