"""Any net with quantized weights: it computes what the plain net computes with W_hat for W; layers that are kept; copies."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from little_nets import NETS, Attends, Shares
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torchvision.models import shufflenet_v2_x0_5
from training_loops import make_loop

from meta_utils.metaquantize import metaquantize, plain_copy
from models_CIFAR.resnet import ResNet
from utils.quantize import BWN, BWNF, DoReFa, evaluate
from utils.quantize import test as accuracy_of

QUANTIZERS = [DoReFa(2), BWN(), BWNF()]


def made(name):
    torch.manual_seed(0)
    return NETS[name]().double()


def scales_of(layer, W):
    """What BWN-F multiplies the signs by, for each coordinate, filter by filter in plain loops."""
    scales = torch.empty_like(W)
    if isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        inputs = len(W) // layer.groups
        for group in range(layer.groups):
            rows = slice(group * inputs, (group + 1) * inputs)
            for output in range(W.shape[1]):
                scales[rows, output] = W[rows, output].abs().mean()
    elif isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        for output in range(len(W)):
            scales[output] = W[output].abs().mean()
    else:
        scales.fill_(W.abs().mean())
    return scales


def quantized_by_hand(plain, quantizer):
    """The plain net with W_hat in the place of every weight of a layer that multiplies by one."""
    net = copy.deepcopy(plain)
    seen = set()
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.MultiheadAttention):
                names = ["in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"]
            else:
                names = ["weight"] if isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)) else []
            for W in (getattr(layer, name) for name in names):
                if W is None or id(W) in seen:
                    continue
                seen.add(id(W))
                if isinstance(quantizer, BWNF):
                    W.copy_(scales_of(layer, W) * torch.where(W >= 0, 1.0, -1.0))
                else:
                    W.copy_(quantizer.quantize(quantizer.preprocess(W), W))
    return net


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_it_is_the_plain_net_with_w_hat(name, quantizer, mode, batches):
    plain, images = made(name).train(mode), batches(1)[0][0]
    expected = quantized_by_hand(plain, quantizer)(images)
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    types = [type(module).__name__ for module in plain.modules()]
    net = metaquantize(copy.deepcopy(plain))
    for _ in range(2):
        torch.testing.assert_close(net(images, quantizer), expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(net(images), plain(images))
    assert not torch.allclose(expected, plain(images), rtol=1e-3)
    assert [type(module).__name__ for module in net.modules()] == types
    assert all(isinstance(module, type(other)) for module, other in zip(net.modules(), plain.modules(), strict=True))
    assert list(net.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("method", ["FC-Grad", "MultiFC"])
def test_a_learned_gradient_trains_every_quantized_weight_once(name, method, batches):
    net = metaquantize(made(name))
    loop = make_loop(net, method, "BWN")
    for t, batch in enumerate(batches(3)):
        W = [layer.weight.detach().clone() for layer in net.meta.layers]
        loop.step(*batch)
        u = net.meta.get("calibration") * net.meta.get("g_W_tilde") if t else None
        for i, (layer, old) in enumerate(zip(net.meta.layers, W, strict=True)):
            expected = old - 0.05 * net.meta.layout.split(u)[i] if t else old  # SGD: pi(g) = g
            torch.testing.assert_close(layer.weight.detach(), expected, rtol=1e-12, atol=1e-14)
            assert torch.equal(layer.weight.detach(), old) == (t == 0), layer.name


def test_a_shared_weight_is_one_layer():
    net = metaquantize(Shares())
    assert [name for name, _ in net.layer_name_list] == ["first", "fc"]
    assert net.meta.layers[0].uses == ("first.weight", "second.weight", "table.weight")


def test_the_weights_of_attention_are_named_by_their_parameters():
    names = [name for name, _ in metaquantize(Attends()).layer_name_list]
    assert names == ["embed", "fc", "attention.in_proj_weight", "attention.out_proj"]
    paths = dict(metaquantize(Attends(kdim=3)).layer_name_list)
    projections = [f"attention.{which}_proj_weight" for which in "qkv"]
    assert [paths.get(name) for name in projections] == [("attention",)] * 3


def test_a_net_can_be_a_single_layer(batches):
    torch.manual_seed(0)
    net = nn.Linear(8, 10).double()
    plain = copy.deepcopy(net)
    metaquantize(net)
    x = batches(1)[0][0][:, 0, 0]
    torch.testing.assert_close(net(x, BWN()), F.linear(x, BWN().quantize(plain.weight.detach()), plain.bias))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["deepcopy", "pickle"])
def test_a_copy_is_a_net_of_its_own(copied, batches):
    net = metaquantize(made("twice"))
    images, targets = batches(1)[0]
    F.cross_entropy(net(images, "dorefa"), targets).backward()
    other = copied(net)
    assert torch.equal(other.conv.quantized_grads, net.conv.quantized_grads)
    assert torch.equal(other(images, "dorefa"), net(images, "dorefa"))
    with torch.no_grad():
        other.conv.weight.neg_()
    assert not torch.equal(other(images, "dorefa"), net(images, "dorefa"))
    assert torch.equal(other.conv.quantized_weight, -net.conv.quantized_weight)


@pytest.mark.parametrize("quantizer", [None, *QUANTIZERS], ids=str)
@pytest.mark.parametrize("name", NETS)
def test_a_plain_copy_is_the_net_as_it_was_with_w_hat(name, quantizer, batches):
    net, images = metaquantize(made(name)), batches(1)[0][0]
    before = copy.deepcopy(net.state_dict())
    plain = plain_copy(net, quantizer)
    assert torch.equal(plain(images), net(images, quantizer))
    for own, other in zip(plain.modules(), made(name).modules(), strict=True):
        assert type(own) is type(other)
        assert own.__dict__.keys() == other.__dict__.keys()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(metaquantize(plain)(images), plain(images))  # it can be quantized again


@pytest.mark.parametrize(
    "make", [lambda: ResNet(20), lambda: shufflenet_v2_x0_5(num_classes=10)], ids=["ResNet20", "torchvision"]
)
@torch.no_grad()
def test_torch_exports_and_traces_the_net_and_its_plain_copy(make):
    torch.manual_seed(0)
    net, images = metaquantize(make()).eval(), torch.randn(2, 3, 32, 32)
    plain, more = plain_copy(net, BWN()), torch.randn(5, 3, 32, 32)
    batch = ({0: torch.export.Dim("batch")},)
    assert torch.equal(torch.export.export(plain, (images,), dynamic_shapes=batch).module()(more), net(more, BWN()))
    assert torch.equal(torch.jit.trace(plain, (images,), check_trace=False)(more), net(more, BWN()))
    assert torch.equal(torch.export.export(net, (images,)).module()(images), net(images))
    assert torch.equal(torch.jit.trace(net, (images,), check_trace=False)(more), net(more))


def test_a_hook_on_the_net_runs_once(batches):
    net, calls = metaquantize(made("twice")), []
    net.register_forward_hook(lambda *_: calls.append(1))
    net(batches(1)[0][0], "BWN")
    assert len(calls) == 1


@pytest.fixture
def tiny_resnet():
    """ResNet8 as a plain net, in float64."""
    torch.manual_seed(0)
    return ResNet(8).double()


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (["conv1", "fc"], ["conv1", "fc"]),
        (
            ["layer1.*", "*.downsample.*"],
            ["layer1.0.conv1", "layer1.0.conv2", "layer2.0.downsample.0", "layer3.0.downsample.0"],
        ),
    ],
)
def test_kept_layers_compute_in_full_precision(keep, kept, tiny_resnet, batches):
    images = batches(1)[0][0]
    net = metaquantize(copy.deepcopy(tiny_resnet), keep)
    by_hand = quantized_by_hand(tiny_resnet, BWN())
    every = [name for name, _ in metaquantize(copy.deepcopy(tiny_resnet)).layer_name_list]
    assert [name for name in every if name not in dict(net.layer_name_list)] == kept
    with torch.no_grad():
        for name in kept:
            by_hand.get_submodule(name).weight.copy_(tiny_resnet.get_submodule(name).weight)
    torch.testing.assert_close(net(images, "BWN"), by_hand(images), rtol=1e-12, atol=1e-12)


def test_a_kept_layer_may_be_parametrized(tiny_resnet, batches):
    ((images, _),) = batches(1)
    net = copy.deepcopy(tiny_resnet)
    weight_norm(net.fc)
    with pytest.raises(ValueError, match="layer fc: its weight is no parameter of its own"):
        metaquantize(copy.deepcopy(net))
    net = metaquantize(net, ["fc"])
    net(images, "BWN").sum().backward()
    assert net.fc.parametrizations.weight.original1.grad.abs().max() > 0


def test_a_layer_with_two_names_is_kept_by_either(tiny_resnet):
    for pattern in ("fc", "again"):
        tiny_net = copy.deepcopy(tiny_resnet)
        tiny_net.again = tiny_net.fc
        net = metaquantize(tiny_net, [pattern])
        assert "fc" not in dict(net.layer_name_list)
        assert "again" not in dict(net.layer_name_list)


def test_a_forward_in_training_mode_with_every_weight_frozen(tiny_resnet, batches):
    ((images, _),) = batches(1)
    net = metaquantize(copy.deepcopy(tiny_resnet)).requires_grad_(False).train()
    assert not net(images, "BWN").requires_grad
    assert net.fc.quantized_weight.unique().numel() == 2


@pytest.mark.parametrize("pack", [lambda y: y, lambda y: (y, [y]), lambda y: {"logits": y}])
def test_what_autocast_makes_has_the_weights_dtype(pack):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.fc = nn.Embedding(5, 4), nn.Linear(4, 3)

        def forward(self, tokens):
            return pack(self.fc(self.table(tokens)))

    net = metaquantize(Words(), autocast=torch.bfloat16)
    found = torch.utils._pytree.tree_leaves(net(torch.tensor([0, 3]), "BWN"))
    assert {value.dtype for value in found} == {torch.float32}
    assert all(value.abs().max() > 0 for value in found)


def test_evaluation_by_the_notebooks_function_is_quantized(batches):
    net, data = metaquantize(made("twice")), batches(4)
    by_hand = quantized_by_hand(net, BWN())  # a copy, with the layers' full-precision forward
    hits = [(by_hand(images).argmax(1) == targets).double().mean() for images, targets in data]
    assert accuracy_of(net, "BWN", data) == pytest.approx(100 * torch.stack(hits).mean().item())


def test_evaluation_reaches_a_net_through_a_wrapper(batches):
    class Wrapper(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, images, quantized_type=None):
            return self.net(images, quantized_type=quantized_type)

    net, data = metaquantize(made("twice")), batches(2)
    assert evaluate(Wrapper(net), "BWN", data) == evaluate(net, "BWN", data)
    with pytest.raises(ValueError, match="Sequential is not metaquantized"):
        evaluate(nn.Sequential(nn.Flatten()), "BWN", data)
