"""A quantizer with parameters of its own in a net, and what the loop says and refuses of it."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from training_loops import make_loop

from meta_utils.adam import Adam
from meta_utils.install import install_quantizer, parameter_groups
from meta_utils.metaquantize import metaquantize
from meta_utils.prox_quant import ProxQuant
from meta_utils.SGD import SGD
from meta_utils.training import TrainingLoop
from models_CIFAR.resnet import ResNet
from utils.choices import OPTIMIZEES, QUANTIZERS, is_trained
from utils.quantize import evaluate, get_quantizer
from utils.quantizers.discretize import BY_STE
from utils.quantizers.trained import LSQ, TTQ, TrainedQuantizer

NAMES = {"LSQ": ["s"], "TTQ": ["W_p", "W_n"]}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_the_state_dict_has_the_quantizers_parameters_alone_beside_the_nets(name, tiny_net):
    plain = tiny_net.state_dict()
    quantizer = install_quantizer(tiny_net, get_quantizer(name))
    own = [f"quantizer.{parameter}" for parameter in NAMES.get(name, [])]
    assert bool(own) == is_trained(name)
    assert list(tiny_net.state_dict()) == [*plain, *own]
    for parameter in own:
        value = tiny_net.state_dict()[parameter]
        assert (value.shape, value.dtype) == ((10,), torch.float64)
    if own:
        assert tiny_net.quantizer is quantizer
        with pytest.raises(RuntimeError, match=f"Missing key.*{own[0]}"):
            tiny_net.load_state_dict(plain)
        assert [name for name, _ in tiny_net.layer_name_list] == [layer.name for layer in tiny_net.meta.layers]


def test_the_start_is_from_each_layers_weights(tiny_net):
    quantizer = install_quantizer(tiny_net, LSQ(bits=3))
    for layer, s in zip(tiny_net.meta.layers, quantizer.s.tolist(), strict=True):
        assert s == pytest.approx(2 * layer.weight.abs().mean().item() / 3**0.5, rel=1e-12)


def test_its_name_means_the_one_that_is_installed(tiny_net, batches):
    ((images, targets),) = batches(1)
    twin = copy.deepcopy(tiny_net)
    quantizer = install_quantizer(tiny_net, LSQ(bits=2))
    with torch.no_grad():
        quantizer.s.mul_(1.5)
    outputs = tiny_net(images, "LSQ")
    assert torch.equal(outputs, tiny_net(images, quantizer))
    assert evaluate(tiny_net, "LSQ", [(images, targets)]) == evaluate(tiny_net, quantizer, [(images, targets)])
    assert torch.equal(tiny_net(images, "dorefa"), twin(images, "dorefa"))
    with pytest.raises(RuntimeError, match=r"LSQ\(bits=1\) has no s yet: install_quantizer"):
        twin(images, "LSQ")
    copied = copy.deepcopy(tiny_net)
    assert copied.meta.quantizer is copied.quantizer is not quantizer
    with torch.no_grad():
        copied.quantizer.s.mul_(2)
    assert not torch.equal(copied(images, "LSQ"), outputs)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("SGD-M", partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4)),
        ("Adam", partial(torch.optim.Adam, lr=1e-3, weight_decay=1e-2)),
    ],
)
@pytest.mark.parametrize("quantizer", ["LSQ", "TTQ"])
def test_ste_equals_torch_optim_with_a_group_for_the_quantizer(quantizer, name, theirs, tiny_net, batches):
    reference = copy.deepcopy(tiny_net)
    install_quantizer(reference, get_quantizer(quantizer, 2))
    others = [p for name, p in reference.named_parameters() if not name.startswith("quantizer")]
    own = {"params": reference.quantizer.parameters(), "lr": 0.02, "weight_decay": 0.0}
    optimizer = theirs([{"params": others}, own])
    installed = install_quantizer(tiny_net, get_quantizer(quantizer, 2))
    options = {"lr": optimizer.defaults["lr"], "weight_decay": optimizer.defaults["weight_decay"]}
    choice = OPTIMIZEES[name]
    optimizee = choice.build(parameter_groups(tiny_net, 0.02), **options, **choice.options_ste)
    loop = TrainingLoop(tiny_net, optimizee, installed)
    for images, targets in batches(4):
        loop.step(images, targets)
        optimizer.zero_grad()
        F.cross_entropy(reference(images, quantizer), targets).backward()
        optimizer.step()
    for (name, p), q in zip(tiny_net.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-10, msg=name)


def test_the_hyperparameters_of_every_group_are_named(tiny_net):
    loop = make_loop(tiny_net, "FC-Grad", quantizer="TTQ")
    others, own = loop.hyperparameters()["net"]
    assert (others["name"], own["name"]) == ("net", "quantizer")
    assert "lr" not in own
    assert isinstance(loop.hyperparameters()["meta_net"], dict)
    decayed = SGD(parameter_groups(tiny_net), lr=1, weight_decay=0.5, momentum=0.9)
    groups = TrainingLoop(tiny_net, decayed, tiny_net.quantizer).hyperparameters()["net"]
    assert [(group["weight_decay"], group["momentum"]) for group in groups] == [(0.5, 0.9), (0.0, 0.9)]
    plain = metaquantize(ResNet(8))
    assert make_loop(plain).hyperparameters()["net"]["weight_decay"] == 0


@pytest.mark.parametrize("method", ["STE", "MultiFC"])
@pytest.mark.parametrize("quantizer", ["LSQ", "TTQ"])
def test_a_state_is_everything(method, quantizer, tiny_net, batches):
    """A loop that goes on from another's state, whatever its quantizer began with, computes the same."""
    data, loops = batches(5), []
    for scale in (1, 3):
        net = copy.deepcopy(tiny_net)
        with torch.no_grad():
            net.conv1.weight.mul_(scale)
        torch.manual_seed(0)
        installed = install_quantizer(net, get_quantizer(quantizer, 2))
        loops.append(make_loop(net, method, installed, Adam(parameter_groups(net, 0.01), lr=0.05)))
    for batch in data[:3]:
        loops[0].step(*batch)
    loops[1].load_state_dict(copy.deepcopy(loops[0].state_dict()))
    for batch in data[3:]:
        assert torch.equal(*(loop.step(*batch)[0] for loop in loops))
    for name, value in loops[0].net.state_dict().items():
        assert torch.equal(loops[1].net.state_dict()[name], value), name


class Unstarted(torch.nn.Module):
    """A module that is no quantizer with parameters."""

    def __init__(self, bits=1):
        super().__init__()
        self.bits = bits

    def preprocess(self, W, layout=None):
        return W

    quantize = calibration = preprocess


class Fixed(TrainedQuantizer):
    """A quantizer that could have parameters and has none."""

    def start(self, W, layout):
        self.register_buffer("level", W.new_full((), 0.5))

    def quantize(self, W_tilde, W, layout, discretize=BY_STE):
        return discretize(W_tilde, self.level * W_tilde.detach().sign(), layout)


def test_what_cannot_be_installed_or_trained_is_refused(tiny_net):
    quantizer = LSQ(2)
    with pytest.raises(ValueError, match=r"LSQ\(bits=2\) has parameters: install_quantizer"):
        TrainingLoop(tiny_net, SGD(tiny_net.parameters()), quantizer)
    with pytest.raises(ValueError, match="Unstarted is a module and has no start"):
        install_quantizer(tiny_net, Unstarted())
    install_quantizer(tiny_net, quantizer)
    with pytest.raises(ValueError, match=r"the net has a quantizer already: LSQ\(bits=2\)"):
        install_quantizer(tiny_net, TTQ())
    proximal = {"after_step": [ProxQuant(quantizer)], "quantized_forward": False}
    with pytest.raises(ValueError, match=r"would not train the parameters of LSQ\(bits=2\)"):
        TrainingLoop(tiny_net, SGD(parameter_groups(tiny_net)), quantizer, **proximal)
    other = metaquantize(ResNet(8))
    other.quantizer = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"the net has a quantizer already: Identity\(\)"):
        install_quantizer(other, LSQ(2))
    assert len(list(parameter_groups(other))) == len(list(other.parameters()))


@pytest.mark.parametrize("call", [lambda net: install_quantizer(net, LSQ(2)), parameter_groups], ids=["install", "groups"])
def test_a_net_that_is_not_metaquantized_is_refused_by_name(call):
    with pytest.raises(ValueError, match=r"the net ResNet is not metaquantized: metaquantize\(net\) comes first"):
        call(ResNet(8))


@pytest.mark.parametrize("bits", [None, 2])
def test_a_module_without_start_is_refused_by_name(bits, monkeypatch):
    monkeypatch.setitem(QUANTIZERS, "unstarted", Unstarted)
    with pytest.raises(ValueError, match="Unstarted is a module and has no start"):
        get_quantizer("unstarted", bits)


def test_the_quantizers_parameters_are_trained_where_every_weight_is_frozen(tiny_net, batches):
    quantizer = install_quantizer(tiny_net, LSQ(2))
    for layer in tiny_net.meta.layers:
        layer.weight.requires_grad_(False)
    s, W = quantizer.s.detach().clone(), tiny_net.meta.weights().detach().clone()
    make_loop(tiny_net, quantizer=quantizer).step(*batches(1)[0])
    assert not torch.equal(quantizer.s, s)
    assert torch.equal(tiny_net.meta.weights(), W)


def test_a_module_without_parameters_has_no_group(tiny_net, batches):
    fixed = install_quantizer(tiny_net, Fixed(bits=1))
    loop = make_loop(tiny_net, quantizer=fixed)
    assert len(loop.optimizee.param_groups) == 1
    assert torch.isfinite(loop.step(*batches(1)[0])[0])
    assert tiny_net.fc.quantized_weight.unique().tolist() == [-0.5, 0.5]


def test_a_net_that_calls_all_of_its_modules_does_not_call_the_quantizer(batches):
    ((images, targets),) = batches(1)
    layers = [torch.nn.Flatten(), torch.nn.Linear(images[0].numel(), 4), torch.nn.ReLU(), torch.nn.Linear(4, 10)]
    net = metaquantize(torch.nn.Sequential(*layers)).double()
    quantizer = install_quantizer(net, LSQ(bits=2))
    before = quantizer.s.tolist()
    loop = TrainingLoop(net, SGD(parameter_groups(net), lr=0.05), quantizer)
    loop.step(images, targets)
    assert quantizer.s.tolist() != before
    assert list(net.state_dict()) == ["1.weight", "1.bias", "3.weight", "3.bias", "quantizer.s"]


def test_a_forward_may_call_itself_and_leaves_the_order_of_modules(batches):
    class Again(torch.nn.Sequential):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return self(x, "LSQ") if self.calls == 1 else super().forward(x)

    ((images, _),) = batches(1)
    net = metaquantize(Again(torch.nn.Flatten(), torch.nn.Linear(images[0].numel(), 10))).double()
    install_quantizer(net, LSQ(bits=2))
    net.late = torch.nn.Identity()
    net(images, "LSQ")
    assert net.calls == 2
    assert list(net._modules) == ["0", "1", "quantizer", "late"]
