"""LSQ, TTQ and ternary by their papers' formulas, written out here once more."""

import doctest

import pytest
import torch

from meta_utils.estimators import ESTIMATORS
from utils.layout import ONE_TENSOR, FlatLayout
from utils.quantize import Ternary, get_quantizer
from utils.quantizers import trained
from utils.quantizers.discretize import Discretize
from utils.quantizers.trained import LSQ, SMALLEST, TTQ

ALL = [(LSQ, bits) for bits in (1, 2, 3, 8)] + [(TTQ, 2), (Ternary, 2)]
BITS = range(1, 9)


def draw(*shape, seed=0, scale=0.3):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def started(make, bits, W, layout=ONE_TENSOR):
    quantizer = make(bits)
    if make is not Ternary:
        quantizer.start(W, layout)
    return quantizer


def gradients(quantizer, W, g_W_hat, layout=ONE_TENSOR, estimator="STE", progress=0.5):
    """W_hat, and the gradients of sum(W_hat g_W_hat) for W and for the quantizer's parameters by name."""
    W = W.clone().requires_grad_()
    step = Discretize(ESTIMATORS.load(estimator), torch.tensor(progress, dtype=W.dtype))
    W_hat = quantizer.quantize(quantizer.preprocess(W, layout), W, layout, step)
    named = dict(quantizer.named_parameters()) if isinstance(quantizer, torch.nn.Module) else {}
    found = torch.autograd.grad(W_hat, [W, *named.values()], g_W_hat)
    return W_hat.detach(), found[0], dict(zip(named, found[1:], strict=True))


def levels(bits):
    """Q_N, Q_P of the paper for k bits with a sign."""
    return 2 ** (bits - 1), 2 ** (bits - 1) - 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", BITS)
def test_lsqs_values(bits, dtype):
    """Bit for bit s times a whole number; all levels occur, and 0 is 0."""
    W = draw(100, 100, scale=1.0).to(dtype)
    quantizer = started(LSQ, bits, W)
    with torch.no_grad():
        quantizer.s.fill_(1.9 / 2**bits)
    s = quantizer.s.item()
    W_hat = quantizer.quantize(quantizer.preprocess(W), W)
    Q_N, Q_P = levels(bits)
    n = torch.where(W >= 0, 1, -1) if bits == 1 else torch.round(torch.clamp(W / s, -Q_N, Q_P))
    assert torch.equal(W_hat, s * n.to(dtype))
    assert len(W_hat.unique()) == 2**bits
    assert not (torch.signbit(W_hat) & (W_hat == 0)).any()
    assert torch.equal(quantizer.calibration(W), torch.ones_like(W))


@pytest.mark.parametrize("bits", range(2, 9))
def test_lsqs_gradients_are_the_papers(bits):
    """Within the clipping range and on both sides of it: Eqs. (3) and (5), and the gradient scale of section 2.2."""
    W, g_W_hat = draw(60, 50, scale=1.0), draw(60, 50, seed=1)
    quantizer = started(LSQ, bits, W)
    with torch.no_grad():
        quantizer.s.fill_(2.5 / 2**bits)
    s, (Q_N, Q_P) = quantizer.s.item(), levels(bits)
    v = W / s
    below, above = v <= -Q_N, v >= Q_P
    assert min(below.sum(), above.sum(), (~below & ~above).sum()) > 20
    dW_hat_ds = torch.where(below, -Q_N, torch.where(above, Q_P, torch.round(v) - v))
    _, g_W, own = gradients(quantizer, W, g_W_hat)
    torch.testing.assert_close(g_W, torch.where(below | above, 0.0, g_W_hat))
    torch.testing.assert_close(own["s"], (g_W_hat * dW_hat_ds).sum()[None] / (W.numel() * Q_P) ** 0.5)


def test_lsqs_gradients_at_one_bit():
    """Q_N = Q_P = 1 and the levels -1, 1: s sign(clip(W / s, -1, 1)) with the same rules."""
    W, g_W_hat = draw(30, 50), draw(30, 50, seed=1)
    quantizer = started(LSQ, 1, W)
    assert quantizer.s.item() == pytest.approx(W.abs().mean().item(), rel=1e-14)
    v, sign = W / quantizer.s.item(), torch.where(W >= 0, 1.0, -1.0).double()
    inside = v.abs() <= 1
    _, g_W, own = gradients(quantizer, W, g_W_hat)
    torch.testing.assert_close(g_W, g_W_hat * inside)
    torch.testing.assert_close(own["s"], (g_W_hat * (sign - v * inside)).sum()[None] / W.numel() ** 0.5)


@pytest.mark.parametrize(("make", "bits"), [(LSQ, 1), (LSQ, 2), (LSQ, 4), (TTQ, 2)])
def test_a_scales_gradient_is_the_slope_where_w_is_clipped_or_given_a_level(make, bits):
    """Finite differences, where W_hat is smooth in the scale: LSQ's weights beyond the clipping range, all of TTQ's."""
    W, g_W_hat, step = draw(12, 5), draw(12, 5, seed=1), 1e-6
    W = torch.where(W.abs() < 0.1, W, W.sign() * 5) if make is TTQ else W + 20 * W.sign()
    quantizer = started(make, bits, W)
    if make is LSQ:
        with torch.no_grad():
            quantizer.s.fill_(0.2)
    _, _, own = gradients(quantizer, W, g_W_hat)
    factor = (W.numel() * max(levels(bits)[1], 1)) ** 0.5 if make is LSQ else 1.0
    for name, p in quantizer.named_parameters():
        values = []
        for shift in (step, -step):
            with torch.no_grad():
                p += shift
                values.append((quantizer.quantize(W, W) * g_W_hat).sum())
                p -= shift
        slope = (values[0] - values[1]) / (2 * step)
        assert abs(slope) > 0.01
        assert own[name].item() * factor == pytest.approx(slope.item(), rel=1e-7)


@pytest.mark.parametrize("bits", BITS)
def test_lsqs_start(bits):
    W = draw(7, 3)
    expected = W.abs().mean() if bits == 1 else 2 * W.abs().mean() / levels(bits)[1] ** 0.5
    torch.testing.assert_close(started(LSQ, bits, W).s.detach(), expected[None])


def test_ttqs_values_start_and_gradients():
    W = torch.tensor([-2.0, -0.5, -0.1, 0.0, 0.04, 0.1, 0.11, 0.7], dtype=torch.float64)  # the threshold is 0.1
    g_W_hat = torch.arange(1.0, 9.0, dtype=torch.float64)
    quantizer = started(TTQ, 2, W)
    assert quantizer.W_p.tolist() == [pytest.approx((0.11 + 0.7) / 2)]
    assert quantizer.W_n.tolist() == [1.25]
    with torch.no_grad():
        quantizer.W_p.fill_(0.25)
        quantizer.W_n.fill_(0.5)
    W_hat, g_W, own = gradients(quantizer, W, g_W_hat)
    assert W_hat.tolist() == [-0.5, -0.5, 0, 0, 0, 0, 0.25, 0.25]
    assert own["W_p"].tolist() == [7 + 8]
    assert own["W_n"].tolist() == [-(1 + 2)]
    assert g_W.tolist() == [0, 0.5 * 2, 3, 4, 5, 6, 0.25 * 7, 0.25 * 8]  # the first has |W| > 1
    identity = gradients(quantizer, W, g_W_hat, estimator="STE-identity")[1]
    assert identity.tolist() == [0.5 * 1, 0.5 * 2, 3, 4, 5, 6, 0.25 * 7, 0.25 * 8]  # the paper's


def test_ttq_starts_without_weights_on_a_side():
    quantizer = started(TTQ, 2, torch.tensor([0.5, 1.0, 0.01]))
    assert (quantizer.W_p.item(), quantizer.W_n.item()) == (0.75, 0.75)


def test_ternary_numbers():
    W = torch.tensor([-1.5, -0.25, 0.15, 0.25, 0.85], dtype=torch.float64)  # the mean of |W| is 0.6
    W_hat, g_W, _ = gradients(Ternary(), W, torch.arange(1.0, 6.0, dtype=torch.float64))
    torch.testing.assert_close(W_hat, torch.tensor([-0.6, 0.0, 0.0, 0.0, 0.6], dtype=torch.float64))
    assert not torch.signbit(W_hat[1:]).any()
    assert g_W.tolist() == [0, 2, 3, 4, 5]  # STE's own: 1 where |W| <= 1
    assert torch.equal(Ternary().calibration(W), torch.ones_like(W))


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("make", "bits"), ALL)
def test_every_estimator_makes_the_step(make, bits, estimator):
    """By the chain rule around it: W_hat = a d(x) + b, with x, q and what stands around them as the docstrings give them."""
    W, g_W_hat, chosen = draw(20, 9), draw(20, 9, seed=1), ESTIMATORS.load(estimator)
    quantizer, progress = started(make, bits, W), torch.tensor(0.4, dtype=torch.float64)
    W_hat, g_W, own = gradients(quantizer, W, g_W_hat, estimator=estimator, progress=0.4)
    hard = quantizer.quantize(W, W).detach()
    if make is LSQ:
        s, half = quantizer.s.item(), 1.0 if bits == 1 else levels(bits)[1] + 0.5
        move = 0.0 if bits == 1 else 0.5
        x, q, factor, unit = (W / s + move) / half, (hard / s + move) / half, s * half, 1.0
    elif make is TTQ:
        q = hard.sign()
        factor = unit = torch.where(q > 0, quantizer.W_p.detach(), torch.where(q < 0, quantizer.W_n.detach(), 1.0))
        x = W
    else:
        x, q, factor, unit = W, hard, 1.0, 1.0
    d = chosen.forward_value(x / unit, q, progress) if chosen.relaxed else q
    torch.testing.assert_close(W_hat, hard + factor * (d - q))
    e = chosen(g_W_hat * factor, x / x.std(correction=0) if chosen.standardized else x, q, progress)
    torch.testing.assert_close(g_W, e / (factor if make is LSQ else 1.0))
    if make is LSQ:
        by_s = g_W_hat * W_hat / s - e / factor * W / s
        torch.testing.assert_close(own["s"], by_s.sum()[None] / (W.numel() * max(levels(bits)[1], 1)) ** 0.5)
    elif make is TTQ:
        for name, side in (("W_p", q > 0), ("W_n", q < 0)):
            torch.testing.assert_close(own[name], (g_W_hat * d * side).sum()[None])


SHAPES = [(4, 3, 3, 3), (6, 4, 1, 1), (10, 6), (5,)]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("make", "bits"), ALL)
def test_the_flat_vector_gives_what_each_weight_gives(make, bits, memory_format):
    made = [draw(*shape, seed=i, scale=0.1 * (i + 1)) for i, shape in enumerate(SHAPES)]
    made = [W.contiguous(memory_format=memory_format) if W.dim() == 4 else W for W in made]
    layout = FlatLayout(made)
    flat = layout.flatten(made)
    quantizer = started(make, bits, flat, layout)
    W_hat, g_W, own = gradients(quantizer, flat, flat.cos(), layout)
    for i, W in enumerate(made):
        alone = started(make, bits, W)
        expected = gradients(alone, W, W.cos())
        torch.testing.assert_close(layout.split(W_hat)[i], expected[0])
        torch.testing.assert_close(layout.split(g_W)[i], expected[1])
        for name, value in expected[2].items():
            assert getattr(quantizer, name).shape == own[name].shape == (len(made),)
            torch.testing.assert_close(getattr(quantizer, name)[i : i + 1], getattr(alone, name))
            torch.testing.assert_close(own[name][i : i + 1], value)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("value", [-0.2, -1e-30, 0.0, 1e-45, 1e-13])
@pytest.mark.parametrize(("make", "bits"), [(LSQ, 1), (LSQ, 2), (TTQ, 2)])
def test_a_scale_that_is_not_positive_harms_nothing(make, bits, value, estimator):
    """Values and gradients stay finite in float32; the forward computes with |value|, and the gradient does not vanish."""
    W = torch.cat([draw(30).float(), torch.zeros(2)])
    quantizer = started(make, bits, W)
    with torch.no_grad():
        for p in quantizer.parameters():
            p.fill_(value)
    W_hat, g_W, own = gradients(quantizer, W, W.sign(), estimator=estimator)
    for found in (W_hat, g_W, *own.values()):
        assert torch.isfinite(found).all()
    if estimator == "STE":
        scale = torch.tensor(max(abs(value), SMALLEST))
        assert {*W_hat.abs().unique().tolist()} <= {0.0, scale.item(), (2 * scale).item()}
        for gradient in own.values():  # of sum |W_hat|, which grows with |value|
            assert gradient.sign().item() == (1 if value >= 0 else -1)


@pytest.mark.parametrize("make", [LSQ, TTQ])
def test_a_weight_of_zeros_among_others(make):
    made = [torch.zeros(2, 2, 1, 1), torch.tensor([0.25, -0.5])]
    layout = FlatLayout(made)
    flat = layout.flatten(made)
    quantizer = started(make, 2, flat, layout)
    assert all((p > 0).all() for p in quantizer.parameters())
    W_hat, g_W, own = gradients(quantizer, flat, torch.ones_like(flat), layout)
    assert all(torch.isfinite(found).all() for found in (W_hat, g_W, *own.values()))
    assert torch.equal(g_W[:4], torch.ones(4))  # such a weight can learn


@pytest.mark.parametrize(("name", "bits"), [("LSQ", 0), ("LSQ", 9), ("LSQ", 1.5), ("TTQ", 1), ("TTQ", 3), ("ternary", 1)])
def test_other_bits_are_refused(name, bits):
    with pytest.raises(ValueError, match=f"{name} takes .*, not {bits}$"):
        get_quantizer(name, bits)


@pytest.mark.parametrize(("name", "bits"), [("dorefa", 1), ("BWN", 1), ("LSQ", 1), ("TTQ", 2), ("ternary", 2)])
def test_a_quantizers_own_bits(name, bits):
    assert get_quantizer(name).bits == bits


def test_parameters_do_not_exist_before_the_start():
    quantizer = LSQ(2)
    assert list(quantizer.parameters()) == []
    with pytest.raises(RuntimeError, match=r"LSQ\(bits=2\) has no s yet: install_quantizer"):
        quantizer.quantize(torch.ones(3))


def test_the_examples_of_the_docstrings():
    outcome = doctest.testmod(trained)
    assert outcome.attempted > 5
    assert outcome.failed == 0


def test_first_values_may_be_numbers_and_are_one_for_each_name():
    class Own(LSQ):
        def first_values(self, part):
            return self.found

    quantizer = Own()
    quantizer.found = (0.5,)
    quantizer.start(torch.ones(3))
    assert quantizer.s.tolist() == [0.5]
    for quantizer.found in (0.5, (0.5, 1.0), (torch.ones(2),)):
        with pytest.raises(ValueError, match=r"Own\.first_values must return a tuple with a number for s, not"):
            quantizer.start(torch.ones(3))
