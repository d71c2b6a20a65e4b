"""bf16: the net's products and LSTMFC's are rounded, by torch.autocast; W, its gradients, phi and the loss are float32.

The references are plain torch, layer by layer.
"""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from meta_utils import coordinate_lstm
from meta_utils.install import install_quantizer
from meta_utils.meta_network import MetaFC, MetaLSTMFC
from meta_utils.metaquantize import metaquantize
from meta_utils.SGD import SGD
from meta_utils.training import TrainingLoop
from models_CIFAR.resnet import ResNet
from utils.quantize import DoReFa, evaluate, get_quantizer

LR, META_LR = 0.05, 0.1
PRODUCTS = {"bf16": torch.bfloat16, "float32": None}


def batch(t):
    generator = torch.Generator().manual_seed(t)
    return torch.randn(4, 3, 8, 8, generator=generator), torch.randint(10, (4,), generator=generator)


def plain_net():
    torch.manual_seed(0)
    return ResNet(8)


def a_loop(precision, learned=False, order="notebook", quantizer="dorefa", **options):
    net = metaquantize(plain_net(), autocast=PRODUCTS[precision])
    quantizer = install_quantizer(net, get_quantizer(quantizer))
    if learned:
        torch.manual_seed(1)
        options["meta_net"] = MetaFC(hidden_size=5)
        options["meta_optimizer"] = torch.optim.SGD(options["meta_net"].parameters(), lr=META_LR)
    return TrainingLoop(net, SGD(net.parameters(), lr=LR), quantizer, update_order=order, **options)


class Reference:
    """ResNet8 with dorefa at 1 bit, written for autograd; its forward under autocast, or not."""

    def __init__(self, precision):
        self.net, self.dtype = plain_net().train(), PRODUCTS[precision]
        self.own = dict(self.net.named_parameters())
        self.weights = [name for name, p in self.own.items() if p.dim() > 1]

    def logits(self, inputs, replaced=None):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype is not None):
            return functional_call(self.net, replaced or {}, (inputs,))

    @staticmethod
    def quantized(W):
        """W_hat, with the gradient of the straight-through estimator to W."""
        W_tilde = torch.tanh(W) / (2 * torch.tanh(W).detach().abs().max()) + 0.5
        x = 2 * W_tilde - 1
        return x + (torch.where(x >= 0, 1.0, -1.0) - x).detach()

    def backward(self, inputs, targets, used):
        """The loss; the gradients of the parameters, and of W_hat by name. used: name -> what W_hat and biases are made of."""
        replaced = {name: self.quantized(W) if name in self.weights else W for name, W in used.items()}
        for name in self.weights:
            replaced[name].retain_grad()
        logits = self.logits(inputs, replaced)
        loss = F.cross_entropy(logits.float(), targets)
        for p in self.own.values():
            p.grad = None
        loss.backward()
        return loss.detach(), {name: replaced[name].grad for name in self.weights}


def g_W_hat(loop):
    layers = loop.net.meta
    return {f"{layer.name}.weight": layer.quantized_grads for layer in layers.layers}


def assert_same_step(loop, loss, gradients, found, rtol=0.0):
    torch.testing.assert_close(found, loss, rtol=rtol, atol=0)
    for name, g in g_W_hat(loop).items():
        assert g.dtype == torch.float32
        torch.testing.assert_close(g, gradients[name], rtol=rtol, atol=rtol * gradients[name].abs().max().item(), msg=name)


@pytest.mark.parametrize("precision", PRODUCTS)
def test_ste_is_plain_autocast(precision):
    """Two steps, in bf16 bit for bit. The gradient of W_hat is float32, whatever the products are rounded to, and so is W's."""
    loop, reference = a_loop(precision), Reference(precision)
    for t in range(2):
        inputs, targets = batch(t)
        found, logits = loop.step(inputs, targets)
        assert (found.dtype, logits.dtype) == (torch.float32,) * 2
        loss, gradients = reference.backward(inputs, targets, {name: reference.own[name] for name in reference.weights})
        assert_same_step(loop, loss, gradients, found, rtol=0.0 if precision == "bf16" else 1e-5)
        with torch.no_grad():
            for p in reference.own.values():
                p -= LR * p.grad
        for (name, p), ours in zip(reference.own.items(), loop.net.parameters(), strict=True):
            torch.testing.assert_close(ours, p, rtol=1e-5, atol=1e-7, msg=name)
            assert ours.dtype == ours.grad.dtype == torch.float32


@pytest.mark.parametrize("order", ["notebook", "paper"])
def test_fc_grad_is_plain_autocast(order):
    """t = 0 and 1: phi's gradient comes back through the net's rounded products; what M computes is not rounded."""
    loop, reference = a_loop("bf16", learned=True, order=order), Reference("bf16")
    phi = [W.clone().requires_grad_() for W in (p.detach() for p in loop.meta_net.parameters())]
    (inputs, targets), own = batch(0), reference.own
    found, _ = loop.step(inputs, targets)
    loss, gradients = reference.backward(inputs, targets, {name: own[name] for name in reference.weights})
    assert_same_step(loop, loss, gradients, found)

    s = (phi[1] @ phi[0]).squeeze()  # FC-Grad without a nonlinearity: g_W_tilde = s g_W_hat
    used, g_W = {}, {}
    for name, p in own.items():
        r = p.grad.clone()
        if name in reference.weights:
            tanh = torch.tanh(p.detach())
            g_W[name] = u = (1 - tanh**2) / tanh.abs().max() * s * gradients[name]
            r = r if order == "notebook" else u.detach()  # the refined gradient of t - 1, or of t
            used[name] = p.detach() - LR * (u + (r - u).detach())
        elif name == "fc.bias":
            used[name] = p.detach() - LR * r
    inputs, targets = batch(1)
    found, _ = loop.step(inputs, targets)
    replaced = {name: reference.quantized(W) if name in reference.weights else W for name, W in used.items()}
    for name in reference.weights:
        replaced[name].retain_grad()
    loss = F.cross_entropy(reference.logits(inputs, replaced).float(), targets)
    loss.backward()
    assert_same_step(loop, loss.detach(), {name: replaced[name].grad for name in reference.weights}, found, rtol=1e-6)
    for W, ours in zip(phi, loop.meta_net.parameters(), strict=True):
        assert ours.grad.dtype == torch.float32
        torch.testing.assert_close(ours.grad, W.grad, rtol=1e-4, atol=1e-6 * W.grad.abs().max().item())
        torch.testing.assert_close(ours, W - META_LR * W.grad, rtol=1e-4, atol=1e-6)
    for name, g in g_W.items():
        torch.testing.assert_close(loop.net.get_parameter(name), own[name] - LR * g.detach(), rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("options", [{"quantizer": None}, {"quantized_forward": False}], ids=["full precision", "ProxQuant"])
def test_a_forward_without_a_quantizer_is_plain_autocast(options):
    loop, reference = a_loop("bf16", **options), Reference("bf16")
    inputs, targets = batch(0)
    found, _ = loop.step(inputs, targets)
    loss = F.cross_entropy(reference.logits(inputs).float(), targets)
    loss.backward()
    assert torch.equal(found, loss)
    for (name, p), ours in zip(reference.own.items(), loop.net.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, p.grad, rtol=0, atol=0, msg=name)


def test_an_evaluation_is_in_the_nets_precision():
    found = {}
    for precision in PRODUCTS:
        loop, reference = a_loop(precision), Reference(precision)
        reference.net.eval()
        inputs, targets = batch(0)
        W_hat = {name: reference.quantized(reference.own[name].detach()) for name in reference.weights}
        logits = reference.logits(inputs, W_hat).float()
        found[precision] = evaluate(loop.net, loop.quantizer, [(inputs, targets)])
        assert found[precision].loss == pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-6)
    assert found["bf16"].loss != found["float32"].loss


def test_a_quantizer_multiplies_in_float32():
    """It is not part of the autocast, matrix products of its own included."""

    class Rotated(DoReFa):
        def preprocess(self, W, layout):
            self.seen.append((W[:4].view(2, 2) @ W[:4].view(2, 2)).dtype)
            return super().preprocess(W, layout)

    quantizer = Rotated()
    object.__setattr__(quantizer, "seen", [])
    net = metaquantize(plain_net(), autocast=torch.bfloat16)
    net(batch(0)[0], quantizer)
    assert quantizer.seen == [torch.float32]
    assert not torch.is_autocast_enabled("cpu")


def rounded_lstm(M, x, h, c):
    """LSTMFC's factor with torch's own gates and autograd; the factors and the result of every product in bf16."""
    below, new_h = x[:, None], []
    for layer in range(M.lstm.num_layers):
        W = M._weights(layer)
        joined = torch.cat([h[layer], below, torch.ones(len(x), 1)], dim=1)
        gates = (joined.bfloat16() @ W.bfloat16().t()).float()
        i, f, g, o = gates.chunk(4, dim=1)
        new_c = f.sigmoid() * c[layer] + i.sigmoid() * g.tanh()
        below = o.sigmoid() * new_c.tanh()
        new_h.append(below)
    return M.fc(below).squeeze(1), torch.stack(new_h)


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("layers", [1, 2])
def test_the_lstms_products_are_in_bf16_and_all_else_is_float32(layers, monkeypatch):
    monkeypatch.setattr(coordinate_lstm, "SLICE", 3)
    torch.manual_seed(2)
    M = MetaLSTMFC(hidden_size=12, num_lstm=layers)
    M.chunk_size = 197  # 65 products of 3 rows, and 2 rows beside them; then 65 of 1 row, and 28
    x, g = torch.rand(290), torch.randn(290)
    h, c = torch.rand(2, layers, 290, 12).unbind()
    found = {}
    for name, dtype in PRODUCTS.items():
        M.zero_grad()
        M.product_dtype = dtype
        out, state = M(g, x, {"h": h, "c": c})
        assert {out.dtype, state["h"].dtype, state["c"].dtype} == {torch.float32}
        out.square().sum().backward()
        found[name] = out.detach(), state["h"], [p.grad.clone() for p in M.parameters()]
        with torch.no_grad():
            assert torch.equal(M(g, x, {"h": h, "c": c})[0], out)  # without a gradient, the same numbers
    M.zero_grad()
    factor, new_h = rounded_lstm(M, x, h, c)
    (g * factor).square().sum().backward()
    out, state, gradients = found["bf16"]
    assert distance(out, g * factor.detach()) < 1e-5
    assert distance(state, new_h.detach()) < 1e-5
    assert distance(found["float32"][1], new_h.detach()) > 1e-4
    for (name, p), ours in zip(M.named_parameters(), gradients, strict=True):
        assert ours.dtype == torch.float32
        assert distance(ours, p.grad) < 0.01, name


def test_without_a_dtype_for_products_nothing_is_cast():
    """In float64 neither: bf16 is asked for by name alone."""
    M = MetaLSTMFC(hidden_size=3).double()
    out, _ = M(torch.ones(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64))
    assert out.dtype == torch.float64
