"""One flat vector for all layers: the way there and back, and quantizers that give on it what they give on each weight."""

import pytest
import torch

from utils.layout import FlatLayout
from utils.quantize import BWN, BWNF, DoReFa, Ternary
from utils.quantizers.quantizer import ste_gradient
from utils.quantizers.trained import LSQ, TTQ

SHAPES = [(4, 3, 3, 3), (6, 4, 1, 1), (1, 2, 3, 3), (10, 6), (5,)]
QUANTIZERS = [DoReFa(1), DoReFa(3), BWN(), BWNF()]


def weights(memory_format, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]
    return [W.contiguous(memory_format=memory_format) if W.dim() == 4 else W for W in made]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_there_and_back(memory_format):
    made = weights(memory_format)
    layout = FlatLayout(made)
    flat = layout.flatten(made)
    assert flat.shape == (sum(W.numel() for W in made),)
    for W, piece in zip(made, layout.split(flat), strict=True):
        assert torch.equal(piece, W)
        assert piece.stride() == W.stride() or W.shape[2:] == (1, 1)
        assert piece.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()  # a view
    other = layout.flatten(W.contiguous() for W in made)
    assert torch.equal(other, flat)  # the order is the weights', whatever the tensors' own


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
def test_a_quantizer_on_the_flat_vector_is_the_quantizer_on_each_weight(quantizer, memory_format):
    made = weights(memory_format)
    layout = FlatLayout(made)
    flat, shifted = layout.flatten(made), layout.flatten(W + 0.1 for W in made)
    W_tilde = quantizer.preprocess(shifted, layout)
    W_hat = quantizer.quantize(W_tilde, flat, layout)
    calibration = quantizer.calibration(flat, layout)
    gradient = ste_gradient(quantizer, flat, flat.cos(), layout)
    for i, W in enumerate(made):
        own_tilde = quantizer.preprocess(W + 0.1)
        torch.testing.assert_close(layout.split(W_tilde)[i], own_tilde)
        torch.testing.assert_close(layout.split(W_hat)[i], quantizer.quantize(own_tilde, W))
        torch.testing.assert_close(layout.split(calibration)[i], quantizer.calibration(W))
        torch.testing.assert_close(layout.split(gradient)[i], ste_gradient(quantizer, W, W.cos()))


def test_one_bit_layers_have_two_values_on_the_flat_vector_in_float32():
    made = weights(torch.channels_last, torch.float32)
    layout = FlatLayout(made)
    flat = layout.flatten(made)
    for quantizer in (DoReFa(1), BWN()):
        W_hat = quantizer.quantize(quantizer.preprocess(flat, layout), flat, layout)
        assert all(len(piece.unique()) <= 2 for piece in layout.split(W_hat))


def test_a_weight_of_zeros_among_others():
    made = [torch.zeros(2, 2, 1, 1), torch.randn(3)]
    layout = FlatLayout(made)
    flat = layout.flatten(made)
    for quantizer in QUANTIZERS:
        values = quantizer.quantize(quantizer.preprocess(flat, layout), flat, layout)
        assert torch.isfinite(values).all()
        assert torch.isfinite(quantizer.calibration(flat, layout)).all()


def test_a_large_weights_mean_and_deviation_are_as_exact_in_float32_as_a_small_ones():
    W = 0.01 * torch.randn(4_000_000, generator=torch.Generator().manual_seed(0))
    layout = FlatLayout([W])
    for found, exact in ((layout.abs_mean(W), W.double().abs().mean()), (layout.deviation(W), W.double().std(correction=0))):
        assert found[0].item() == pytest.approx(exact.item(), rel=1e-6)


def test_a_large_linear_weight_has_the_scale_of_bwn_in_float32_too():
    W = 0.01 * torch.randn(1000, 5000, generator=torch.Generator().manual_seed(0))
    conv = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    layout = FlatLayout([W, conv])
    flat = layout.flatten([W, conv])
    scales = layout.split(layout.abs_mean_per_filter(flat))
    torch.testing.assert_close(scales[0].unique(), W.double().abs().mean().float()[None], rtol=1e-6, atol=0)
    per_filter = conv.abs().mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(scales[1], per_filter.expand_as(conv), rtol=1e-6, atol=0)


def test_a_weight_without_axes_keeps_its_shape():
    W = torch.tensor(0.3)
    for quantizer in (*QUANTIZERS, Ternary()):
        W_tilde = quantizer.preprocess(W)
        assert W_tilde.shape == quantizer.quantize(W_tilde, W).shape == quantizer.calibration(W).shape == ()
    for quantizer in (LSQ(2), TTQ()):
        quantizer.start(W)
        assert quantizer.quantize(W).shape == ()
