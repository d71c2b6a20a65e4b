"""The meta networks: product form, starts, LSTM state, and the one evaluation for all layers."""

import copy
import math

import pytest
import torch
from torch import nn

from meta_utils import coordinate_lstm
from meta_utils.adam import Adam
from meta_utils.helpers import compare_with_ste, meta_gradient_generation
from meta_utils.layer_statistics import layer_statistics
from meta_utils.meta_network import (
    ACTIVATIONS,
    CoordinateFC,
    MetaDesignedMultiFC,
    MetaFC,
    MetaLSTMFC,
    MetaNetwork,
)
from meta_utils.SGD import SGD
from meta_utils.training import TrainingLoop
from utils.choices import META_NETWORKS
from utils.errors import BadPart
from utils.quantize import BWN, DoReFa, get_quantizer
from utils.quantizers.quantizer import ste_gradient

X = torch.tensor([-2.0, -0.3, 0.0, 0.4, 1.0], dtype=torch.float64)


def layer_by_layer(fc, x):
    """The network as it is written, without the product form."""
    x = x[:, None]
    for linear in fc.maps[:-1]:
        x = fc.activation(linear(x))
    return fc.maps[-1](x)[:, 0]


@pytest.mark.parametrize("nonlinear", ACTIVATIONS)
@pytest.mark.parametrize(("hidden", "num_fc"), [(1, 2), (5, 2), (100, 3), (7, 1), (6, 4)])
def test_the_product_form_is_exact(nonlinear, hidden, num_fc):
    torch.manual_seed(hidden)
    fc = CoordinateFC(hidden, num_fc, nonlinear, "random").double()
    grads = []
    for evaluate in (fc, lambda x: layer_by_layer(fc, x)):
        out = evaluate(X)
        out.dot(torch.arange(1.0, 6.0, dtype=torch.float64)).backward()
        grads.append([p.grad.clone() for p in fc.parameters()])
        fc.zero_grad()
    torch.testing.assert_close(fc(X), layer_by_layer(fc, X), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-10, atol=1e-12)
    assert all(not isinstance(m, nn.Linear) or m.bias is None for m in fc.modules())


@pytest.mark.parametrize("nonlinear", [None, "relu"])
@pytest.mark.parametrize(("hidden", "num_fc"), [(100, 2), (5, 3), (2, 4), (3, 1)])
def test_identity_start_of_the_fc_networks(nonlinear, hidden, num_fc):
    fc = CoordinateFC(hidden, num_fc, nonlinear, "identity").double()
    torch.testing.assert_close(fc(X), X, rtol=1e-6, atol=0)  # the parameters begin in float32


def test_identity_start_with_tanh_has_slope_one_at_zero():
    fc = CoordinateFC(100, 2, "tanh", "identity").double()
    x = torch.tensor([-1e-4, 1e-4], dtype=torch.float64)
    torch.testing.assert_close(fc(x), x, rtol=1e-6, atol=0)


def test_identity_start_of_fc_grad_and_lstmfc_is_ste_and_of_multifc_w_tilde():
    g, W_tilde = torch.randn(7), torch.rand(7)
    torch.testing.assert_close(MetaFC(init="identity")(g, W_tilde)[0], g)
    torch.testing.assert_close(MetaLSTMFC(10, init="identity")(g, W_tilde)[0], g)
    torch.testing.assert_close(MetaDesignedMultiFC(init="identity")(g, W_tilde)[0], W_tilde * g)


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: MetaFC(use_nonlinear="gelu"), "gelu"),
        (lambda: MetaFC(init="zero"), "zero"),
        (lambda: MetaFC(hidden_size=0), "hidden_size"),
        (lambda: MetaFC(hidden_size=1, use_nonlinear="relu", init="identity"), "hidden_size"),
        (lambda: MetaDesignedMultiFC(num_layers=0), "num_layers"),
        (lambda: MetaLSTMFC(num_lstm=0), "num_lstm"),
        (lambda: MetaLSTMFC(lstm_state="forget"), "forget"),
    ],
)
def test_wrong_options_are_refused_with_their_value(build, word):
    with pytest.raises(ValueError, match=word):
        build()


@pytest.mark.parametrize("num_lstm", [1, 2])
def test_lstmfc_equals_torch_lstm_over_the_sequence(num_lstm):
    """Carried state: iteration by iteration in chunks is one LSTM over the sequence of W_tilde's."""
    torch.manual_seed(0)
    meta = MetaLSTMFC(6, num_lstm).double()
    meta.chunk_size = 4
    sequence = torch.rand(5, 11, dtype=torch.float64)
    expected = meta.fc(meta.lstm(sequence.unsqueeze(2))[0]).squeeze(2)
    g, state = torch.randn(11, dtype=torch.float64), {}
    for W_tilde, factor in zip(sequence, expected, strict=True):
        out, state = meta(g, W_tilde, state)
        torch.testing.assert_close(out, g * factor)
        assert state["h"].shape == state["c"].shape == (num_lstm, 11, 6)
        assert not state["h"].requires_grad


@pytest.mark.parametrize("num_lstm", [1, 2, 3])
@pytest.mark.parametrize(("chunk_size", "slice_size"), [(1, 1), (4, 2), (4, 1), (11, 5), (100, 3)])
def test_lstmfc_gradients_do_not_depend_on_chunks_and_slices(num_lstm, chunk_size, slice_size, monkeypatch):
    monkeypatch.setattr(coordinate_lstm, "SLICE", slice_size)
    torch.manual_seed(0)
    meta = MetaLSTMFC(6, num_lstm).double()
    W_tilde, g = torch.rand(2, 11, dtype=torch.float64)
    _, state = meta(g, W_tilde, {})
    factor = meta.fc(meta.lstm(W_tilde[None, :, None], (state["h"], state["c"]))[0]).flatten()
    expected = torch.autograd.grad((g * factor).square().sum(), list(meta.parameters()))
    meta.chunk_size = chunk_size
    out, _ = meta(g, W_tilde, state)
    got = torch.autograd.grad(out.square().sum(), list(meta.parameters()))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("scale", [1e-7, 1e-3, 1.0, 10.0])
@pytest.mark.parametrize("nonlinear", ACTIVATIONS)
def test_fc_grad_keeps_its_digits_in_float32_however_small_the_gradient(nonlinear, scale):
    """Of the sum over the hidden units: to a millionth of what its terms come to without their signs."""
    for seed in range(20):
        torch.manual_seed(seed)
        meta, g = MetaFC(use_nonlinear=nonlinear), scale * torch.randn(100)
        got = meta(g, g)[0].double()
        first, last = (linear.weight.double() for linear in meta.fc.maps)
        terms = (last.abs() @ first.abs()).item() * g.double().abs()
        assert ((got - meta.double()(g.double(), g.double())[0]).abs() <= 1e-6 * terms).all()


def test_no_coordinates_are_no_error():
    nothing = torch.zeros(0, dtype=torch.float64)
    for build in map(META_NETWORKS.load, META_NETWORKS):
        meta = build().double()
        out, _ = meta(nothing, nothing)
        out.sum().backward()
        assert out.shape == (0,)
        assert all(not p.grad.any() for p in meta.parameters())


def test_lstm_state_reset_forgets():
    torch.manual_seed(0)
    meta = MetaLSTMFC(6, lstm_state="reset")
    g, W_tilde = torch.randn(5), torch.rand(5)
    first, state = meta(g, W_tilde, {})
    assert state == {}
    assert torch.equal(meta(g, W_tilde, state)[0], first)
    carrying = MetaLSTMFC(6)
    carrying.load_state_dict(meta.state_dict())
    _, state = carrying(g, W_tilde, {})
    assert not torch.equal(carrying(g, W_tilde, state)[0], first)


def after_one_iteration(net, batch, quantizer="dorefa"):
    images, targets = batch
    nn.functional.cross_entropy(net(images, quantizer), targets).backward()
    return net


@pytest.mark.parametrize("method", META_NETWORKS)
def test_one_evaluation_for_all_layers_equals_layer_by_layer(method, tiny_net, batches):
    """Coordinate-wise: M on all layers as one vector is M on each."""
    after_one_iteration(tiny_net, batches(1)[0])
    meta_net = META_NETWORKS.load(method)(hidden_size=10).double()
    calls = []
    meta_net.register_forward_hook(lambda *_: calls.append(1))
    meta_grad_dict, hidden = meta_gradient_generation(meta_net, tiny_net, method, {})
    assert len(calls) == 1
    assert list(meta_grad_dict) == [name for name, _ in tiny_net.layer_name_list]
    for (name, path), layer in zip(tiny_net.layer_name_list, tiny_net.meta.layers, strict=True):
        alone, _ = meta_net(layer.quantized_grads.flatten(), layer.pre_quantized_weight.flatten(), {})
        got_path, g_W_tilde, bias_grad = meta_grad_dict[name]
        assert got_path == path
        torch.testing.assert_close(g_W_tilde, alone.view_as(layer.weight))
        assert g_W_tilde.requires_grad
        assert bias_grad is (None if layer.bias is None else layer.bias.grad)
    assert bool(hidden) == (method == "LSTMFC")


def test_the_method_must_name_the_network(tiny_net, batches):
    after_one_iteration(tiny_net, batches(1)[0])
    for method in ("MultiFC", "STE", "nothing"):
        with pytest.raises(ValueError, match=method):
            meta_gradient_generation(MetaFC().double(), tiny_net, method, {})


def test_a_gradient_that_does_not_exist_yet_is_named(tiny_net):
    with pytest.raises(RuntimeError, match="conv1: no g_W_hat yet"):
        meta_gradient_generation(MetaFC().double(), tiny_net, "FC-Grad", {})
    with pytest.raises(RuntimeError, match=r"layer2\.0\.conv1: no g_W_tilde yet"):
        _ = tiny_net.layer2[0].conv1.pre_quantized_grads


def test_comparison_with_ste(tiny_net, batches):
    after_one_iteration(tiny_net, batches(1)[0])
    same = compare_with_ste(MetaFC(init="identity").double(), tiny_net, DoReFa(1), {})
    assert same.gain == pytest.approx(1, rel=1e-6)
    assert same.cosine == pytest.approx(1)
    meta_net = MetaFC().double()
    with torch.no_grad():
        meta_net.fc.maps[1].weight *= -3 / meta_net.gain()
    opposite = compare_with_ste(meta_net, tiny_net, DoReFa(1), {})
    assert opposite.gain == pytest.approx(-3)
    assert opposite.cosine == pytest.approx(-1)
    tanh = MetaFC(use_nonlinear="tanh").double()
    got = compare_with_ste(tanh, tiny_net, get_quantizer("BWN"), {})
    layers = tiny_net.meta.layers
    g_W_hat = torch.cat([layer.quantized_grads.flatten() for layer in layers])
    g_W = tanh(g_W_hat, g_W_hat)[0]
    ste = torch.cat([ste_gradient(get_quantizer("BWN"), layer.weight, layer.quantized_grads).flatten() for layer in layers])
    assert got.gain == pytest.approx((g_W.norm() / g_W_hat.norm()).item())
    assert got.cosine == pytest.approx((g_W @ ste / g_W.norm() / ste.norm()).item())
    assert not math.isclose(abs(got.cosine), 1)


class Restless(MetaNetwork):
    """Changes its arguments and a buffer, and draws."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, g_W_hat, W_tilde, state=None):
        self.calls += 1
        seen = state["seen"].add_(1) if state else torch.zeros(3)
        return g_W_hat.mul_(torch.rand(()) + W_tilde.zero_().sum()), {"seen": seen}


def test_looking_at_ms_gradient_changes_nothing_whatever_m_does(tiny_net, batches):
    M = Restless()
    (batch,) = batches(1)
    loop = TrainingLoop(tiny_net, SGD(tiny_net.parameters(), lr=0.1), BWN(), M, Adam([{"params": []}]))
    for _ in range(3):
        loop.step(*batch)
    before = copy.deepcopy(loop.state_dict()), torch.get_rng_state()
    loop.compare_with_ste()
    torch.testing.assert_close(loop.state_dict(), before[0], rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), before[1])
    assert (M.calls, loop.meta_hidden_state_dict["seen"].tolist()) == (2, [1, 1, 1])


def test_what_m_returns_is_checked_wherever_it_is_called(tiny_net, batches):
    class Bare(MetaFC):
        def forward(self, g_W_hat, W_tilde, state=None):
            return g_W_hat

    M = Bare()
    (batch,) = batches(1)
    loop = TrainingLoop(tiny_net, SGD(tiny_net.parameters(), lr=0.1), BWN(), M, torch.optim.Adam(M.parameters()))
    loop.step(*batch)
    for call in (loop.compare_with_ste, lambda: loop.step(*batch)):
        with pytest.raises(BadPart, match="Bare must return g_W_tilde and its state"):
            call()


def test_a_recurrent_ms_gain_and_gradient_are_by_the_state_that_it_has(tiny_net, batches):
    """As the next iteration would make them, and not from a state of zeros; the gain is of g_W_tilde, not of g_W."""
    M = MetaLSTMFC(hidden_size=4).double()
    loop = TrainingLoop(tiny_net, SGD(tiny_net.parameters(), lr=0.1), DoReFa(1), M, torch.optim.Adam(M.parameters(), lr=0.1))
    for batch in batches(3):
        loop.step(*batch)
    meta = tiny_net.meta
    g_W_hat, W_tilde = meta.get("g_W_hat"), meta.get("W_tilde")
    with torch.no_grad():
        g_W_tilde, _ = M(g_W_hat, W_tilde, loop.meta_hidden_state_dict)
        from_zeros, _ = M(g_W_hat, W_tilde, {})
        g_W = DoReFa(1).calibration(meta.weights(), meta.layout) * g_W_tilde
    gain = (g_W_tilde.norm() / g_W_hat.norm()).item()
    assert gain != pytest.approx((from_zeros.norm() / g_W_hat.norm()).item(), rel=1e-3)
    assert loop.compare_with_ste().gain == pytest.approx(gain, rel=1e-12)
    rows, _ = layer_statistics(loop, {}).read(1)
    assert [row.norm for row in rows] == pytest.approx([part.norm().item() for part in meta.layout.parts(g_W)], rel=1e-12)


@pytest.mark.parametrize("nonlinear", ACTIVATIONS)
def test_which_factor_each_fc_network_is_a_function_of(nonlinear):
    """FC-Grad: g_W_hat, Eq. (9). MultiFC: W_tilde, and g_W_hat multiplies it, Eq. (10)."""
    torch.manual_seed(0)
    g, W_tilde = torch.randn(2, 7, dtype=torch.float64)
    fc_grad, multi_fc = MetaFC(6, nonlinear).double(), MetaDesignedMultiFC(6, 3, nonlinear).double()
    torch.testing.assert_close(fc_grad(g, W_tilde)[0], layer_by_layer(fc_grad.fc, g))
    torch.testing.assert_close(multi_fc(g, W_tilde)[0], g * layer_by_layer(multi_fc.fc, W_tilde))


@pytest.mark.parametrize(
    ("build", "layers"),
    [
        (MetaFC, lambda: [nn.Linear(1, 5, bias=False), nn.Linear(5, 1, bias=False)]),
        (MetaDesignedMultiFC, lambda: [nn.Linear(i, o, bias=False) for i, o in ((1, 5), (5, 5), (5, 1))]),
        (MetaLSTMFC, lambda: [nn.LSTM(1, 5), nn.Linear(5, 1)]),
    ],
)
def test_a_random_start_is_torchs_own(build, layers):
    torch.manual_seed(0)
    phi = list(build(5).parameters())
    torch.manual_seed(0)
    expected = [p for layer in layers() for p in layer.parameters()]
    assert len(phi) == len(expected)
    assert all(map(torch.equal, phi, expected))
