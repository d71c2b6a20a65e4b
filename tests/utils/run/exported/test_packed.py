"""Packed weights: every number comes back bit for bit, in as few bits as its distinct values take."""

import numpy as np
import pytest
import torch
from little_nets import NETS

from meta_utils.metaquantize import metaquantize
from utils.layout import Filters
from utils.quantize import BWN, BWNF, DoReFa
from utils.run.exported.packed import CHUNK, Packed, View, pack, unpack

SHAPES = [  # shape, filters, output channels as an index for each
    ((16, 3, 3, 3), Filters(), [np.s_[i] for i in range(16)]),
    ((7, 33), None, [np.s_[i] for i in range(7)]),
    ((6, 4, 2), Filters(transposed=True), [np.s_[:, i] for i in range(4)]),
    ((6, 4, 2, 3), Filters(transposed=True, groups=2), [np.s_[3 * g : 3 * g + 3, i] for g in range(2) for i in range(4)]),
    ((5,), None, [np.s_[i] for i in range(5)]),
]
random = np.random.default_rng(0)


def bits_of(values):
    return np.ascontiguousarray(values).view(np.int32)


def unpacked(packed):
    out = np.full(packed.shape, np.nan, np.float32)
    unpack(packed, out)
    return out


@pytest.mark.parametrize(("shape", "filters", "channels"), SHAPES, ids=str)
@pytest.mark.parametrize(
    ("values", "bits"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (9, 4), (17, 5), (64, 6), (65, 7), (256, 8)]
)
def test_a_weight_of_few_values_comes_back_bit_for_bit(shape, filters, channels, values, bits):
    levels = random.standard_normal(values).astype(np.float32)
    W_hat = random.choice(levels, shape)
    W_hat.flat[: min(values, W_hat.size)] = levels[: W_hat.size]
    packed = pack(W_hat, filters)
    assert (bits_of(unpacked(packed)) == bits_of(W_hat)).all()
    assert packed.bits <= bits
    if W_hat.size >= values > 1 and packed.levels.shape[:-1] == (1,) * len(packed.view):
        assert packed.bits == bits
        assert packed.levels.size == values
    assert len(packed.codes) == -(-W_hat.size * packed.bits // 8)


@pytest.mark.parametrize(("shape", "filters", "channels"), SHAPES[:-1], ids=str)
def test_a_scale_for_each_output_channel_takes_a_table_for_each(shape, filters, channels):
    W_hat = random.choice(np.array([-1, 1], np.float32), shape)
    for number, channel in enumerate(channels):
        W_hat[channel] *= number + 0.5
    packed = pack(W_hat, filters)
    assert (bits_of(unpacked(packed)) == bits_of(W_hat)).all()
    assert packed.bits == 1
    assert packed.levels.shape == (*View.of(shape, filters).table_per_channel, 2)
    assert sorted(packed.scales) == [number + 0.5 for number in range(len(channels))]


def test_the_order_of_codes_is_that_of_the_indices_and_of_bits_from_the_least_significant_one():
    W_hat = np.array([[2.0, 1.0, 1.0], [1.0, 3.0, 2.0]], np.float32)
    packed = pack(W_hat, None)
    assert packed.levels.tolist() == [[[1.0, 2.0, 3.0]]]
    assert packed.codes.tolist() == [0b00_00_00_01, 0b01_10]
    turned = pack(np.asfortranarray(W_hat), None)
    assert turned.codes.tolist() == packed.codes.tolist()


def test_any_order_in_memory_is_read_and_written():
    W_hat = torch.from_numpy(random.choice(np.array([-1, 1], np.float32), (8, 4, 3, 3)))
    last = W_hat.contiguous(memory_format=torch.channels_last)
    assert pack(last.numpy(), Filters()).codes.tolist() == pack(W_hat.numpy(), Filters()).codes.tolist()
    out = torch.empty_like(last)
    unpack(pack(W_hat.numpy(), Filters()), out.numpy())
    assert torch.equal(out, W_hat)


def test_a_negative_zero_is_kept_unless_it_would_take_another_bit():
    ternary = np.array([-0.5, -0.0, 0.0, 0.5], np.float32)
    assert (bits_of(unpacked(pack(ternary, None))) == bits_of(ternary)).all()
    W_hat = np.array([-1.0, -0.5, -0.0, 0.0, 0.5], np.float32)  # LSQ at 2 bits
    packed = pack(W_hat, None)
    assert packed.bits == 2
    assert (bits_of(unpacked(packed)) == bits_of(W_hat + 0)).all()


def test_a_weight_longer_than_a_chunk_comes_back():
    W_hat = random.choice(np.array([-3, 0, 1, 2, 5], np.float32), (3, CHUNK // 2 + 5))
    assert (unpacked(pack(W_hat, None)) == W_hat).all()


def test_too_many_values_and_codes_beyond_their_levels_are_refused():
    with pytest.raises(ValueError, match="more than 256 distinct values per output channel"):
        pack(random.standard_normal((2, 300)).astype(np.float32), None)
    assert pack(random.standard_normal((300, 2)).astype(np.float32), None).bits == 1  # two values per channel
    packed = pack(np.array([1.0, 2.0, 3.0], np.float32), None)
    broken = Packed(packed.shape, packed.view, 2, np.array([0b11_01_00], np.uint8), packed.levels)
    with pytest.raises(ValueError, match="code 3 is beyond its 3 levels"):
        unpacked(broken)


@pytest.mark.parametrize("quantizer", [DoReFa(1), DoReFa(2), BWN(), BWNF()], ids=str)
@pytest.mark.parametrize("name", NETS)
def test_what_a_forward_uses_takes_the_quantizers_bits(name, quantizer):
    torch.manual_seed(0)
    net = metaquantize(NETS[name]())
    for layer, W_hat in zip(net.meta.layers, net.meta.quantized(quantizer), strict=True):
        packed = pack(W_hat.numpy(), layer.filters)
        assert (bits_of(unpacked(packed)) == bits_of(W_hat.numpy())).all()
        assert packed.bits == quantizer.bits
