"""Mistakes in what a loop is made of: each is named before the first iteration, or in it."""

import pytest
import torch
from little_nets import Attends
from torch import nn
from training_loops import make_loop

from meta_utils.estimators import EDE
from meta_utils.install import install_quantizer
from meta_utils.meta_network import MetaDesignedMultiFC, MetaFC
from meta_utils.metaquantize import metaquantize
from meta_utils.not_finite import NotFinite
from meta_utils.optimizee import Optimizee
from meta_utils.SGD import SGD
from meta_utils.training import TrainingLoop
from utils.errors import BadPart
from utils.quantize import BWN, get_quantizer
from utils.quantizers.discretize import Estimator
from utils.quantizers.trained import LSQ

IMAGES, TARGETS = torch.ones(2, 3), torch.tensor([0, 1])


def net_and_optimizee():
    net = metaquantize(nn.Sequential(nn.Linear(3, 3)))
    return net, SGD(net.parameters(), lr=0.1)


def learned(M=None):
    M = M or MetaFC()
    return M, torch.optim.Adam(M.parameters())


class NoCall(Estimator):
    pass


class NoMetaNetwork(nn.Linear):
    pass


class NoCalibration:
    bits = 1
    preprocess, quantize = BWN.preprocess, BWN.quantize


@pytest.mark.parametrize(
    ("arguments", "how", "words"),
    [
        ((BWN(), EDE()), {"iterations": 2}, "EDE is a fixed estimator: estimator=EDE()"),
        ((BWN(), MetaFC()), {}, "a meta network and its optimizer"),
        ((None, *learned()), {}, "needs a quantizer"),
        ((BWN, *learned()), {}, "is not one yet: BWN() makes it"),
        (("BWN",), {}, "'BWN' is not one yet: utils.quantize.get_quantizer('BWN') makes it"),
        ((NoCalibration(), *learned()), {}, "the calibration of the quantizer"),
        ((BWN(),), {"estimator": EDE}, "EDE is a class"),
        ((BWN(),), {"after_step": print}, "after_step must be a list of functions of the loop"),
        ((BWN(),), {"after_step": [1]}, "after_step must be a list of functions of the loop, not"),
        ((BWN(),), {"estimator": "EDE"}, "'EDE' is not an Estimator"),
        ((BWN(),), {"estimator": EDE()}, "how many iterations"),
        ((BWN(),), {"estimator": NoCall()}, "NoCall does not define __call__"),
        ((BWN(), *learned(NoMetaNetwork(1, 1))), {}, "NoMetaNetwork is not a MetaNetwork"),
        ((BWN(),), {"clip": 0.0}, "clip must be above 0"),
        ((BWN(),), {"clip": True}, "clip must be above 0, not True"),
        ((BWN(),), {"freeze_phi_after": 1}, "no phi to freeze"),
        ((BWN(), *learned()), {"freeze_phi_after": -1}, "freeze_phi_after must be a whole number of at least 0, not -1"),
        ((BWN(), *learned()), {"freeze_phi_after": True}, "freeze_phi_after must be a whole number of at least 0, not True"),
        ((BWN(),), {"iterations": 0}, "iterations must be a whole number of at least 1, not 0"),
        ((BWN(), MetaFC(), learned()[1]), {}, "other parameters than those of the meta network"),
        ((LSQ(2),), {}, "install_quantizer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_go_together_is_named(arguments, how, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(")", r"\)")):
        TrainingLoop(*net_and_optimizee(), *arguments, **how)


def test_a_plain_net_and_an_optimizer_of_torch_are_named():
    net, optimizee = net_and_optimizee()
    with pytest.raises(ValueError, match="the net Linear is not metaquantized"):
        TrainingLoop(nn.Linear(3, 3), optimizee, BWN())
    with pytest.raises(ValueError, match=r"torch\.optim\.sgd\.SGD .* take an optimizee"):
        TrainingLoop(net, torch.optim.SGD(net.parameters()), BWN())


def test_an_optimizee_that_was_made_before_the_quantizer_is_named():
    net, optimizee = net_and_optimizee()
    quantizer = install_quantizer(net, LSQ(2))
    with pytest.raises(ValueError, match=r"no optimizee trains s of .*LSQ"):
        TrainingLoop(net, optimizee, quantizer)
    quantizer.requires_grad_(False)  # which says that it is meant
    TrainingLoop(net, optimizee, quantizer).step(IMAGES, TARGETS)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda g: g, "its state, a dict; it returned Tensor"),
        (lambda g: (g[:-1], {}), r"of g_W_hat's shape and dtype, \(9,\) .*, not \(8,\)"),
        (lambda g: (g, None), "its state a dict of tensors by name, .*, not None"),
        (lambda g: (g, {"h": 3}), "its state a dict of tensors by name, .*, not {'h': 3}"),
        (lambda g: (None, {}), r"of g_W_hat's shape and dtype, \(9,\) .*, not NoneType"),
    ],
)
def test_what_M_must_return_is_said(returned, words):
    class Own(MetaFC):
        def forward(self, g_W_hat, W_tilde, state=None):
            return returned(g_W_hat)

    loop = TrainingLoop(*net_and_optimizee(), BWN(), *learned(Own()))
    loop.step(IMAGES, TARGETS)
    with pytest.raises(ValueError, match=f"Own must return .*{words}"):
        loop.step(IMAGES, TARGETS)


def test_a_frozen_weight_is_none_for_a_learned_gradient():
    """A fixed estimator leaves it; whether M's loop would depends on its order, so that it is refused."""
    net, optimizee = net_and_optimizee()
    net[0].weight.requires_grad_(False)
    before = net[0].weight.clone()
    TrainingLoop(net, optimizee, BWN()).step(IMAGES, TARGETS)
    assert torch.equal(net[0].weight, before)
    with pytest.raises(ValueError, match="0 does not require a gradient: metaquantize"):
        TrainingLoop(net, optimizee, BWN(), *learned())


def test_freezing_changes_no_parameter_of_M():
    """One that was frozen stays so, and M can be trained by another loop."""
    M = MetaFC()
    first, *others = M.parameters()
    first.requires_grad_(False)
    loop = TrainingLoop(*net_and_optimizee(), BWN(), *learned(M), freeze_phi_after=3)
    start = [p.clone() for p in (first, *others)]
    for _ in range(5):
        loop.step(IMAGES, TARGETS)
    assert torch.equal(first, start[0])
    assert [p.requires_grad for p in M.parameters()] == [False] + [True] * len(others)
    moved = others[0].clone()
    assert not torch.equal(moved, start[1])
    again = TrainingLoop(*net_and_optimizee(), BWN(), *learned(M))
    for _ in range(3):
        again.step(IMAGES, TARGETS)
    assert not torch.equal(others[0], moved)


def test_an_estimator_of_another_shape_is_named_whatever_the_number_of_weights():
    class OnlyTwo(Estimator):
        def __call__(self, g_q, x, q, progress):
            return g_q[:2]

    with pytest.raises(
        ValueError,
        match=r"OnlyTwo.__call__ must return a tensor of x's shape and dtype, \(9,\).*, not \(2,\)",
    ):
        TrainingLoop(*net_and_optimizee(), BWN(), estimator=OnlyTwo()).step(IMAGES, TARGETS)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.fc = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.gru(x[:, None])[0][:, -1])


def test_a_layer_with_several_outputs_is_named_where_the_loss_is_not_finite():
    net = metaquantize(Recurrent())
    loop = TrainingLoop(net, SGD(net.parameters(), lr=0.1), BWN())
    with torch.no_grad():
        net.gru.weight_ih_l0.fill_(torch.nan)
    with pytest.raises(NotFinite) as error:
        loop.step(IMAGES, TARGETS)
    assert error.value.args[1] == "first in layer gru"
    assert not net.gru._forward_hooks


@pytest.mark.parametrize(
    ("parameter", "module"),
    [("embed.weight", "embed"), ("attention.in_proj_weight", "attention"), ("attention.out_proj.weight", "attention.out_proj")],
)
def test_the_module_of_an_attention_that_is_not_finite_is_named(parameter, module):
    """Also the output projection, which is never called by itself."""
    net = metaquantize(Attends())
    loop = TrainingLoop(net, SGD(net.parameters(), lr=0.1), BWN())
    with torch.no_grad():
        net.get_parameter(parameter).fill_(torch.nan)
    with pytest.raises(NotFinite) as error:
        loop.step(torch.randn(2, 3, 4, 4), TARGETS)
    assert error.value.args[1] == f"first in layer {module}"


class Scaled(nn.Module):
    """A layer, a factor of the net's own, and a layer that no forward calls."""

    def __init__(self, factor):
        super().__init__()
        self.factor, self.unused, self.fc = nn.Parameter(torch.tensor(factor)), nn.BatchNorm1d(1), nn.Linear(3, 2)

    def forward(self, x):
        return self.factor * 1e30 * self.fc(x)


@pytest.mark.parametrize("factor", [torch.nan, 1e30])  # which is finite, and the output is not
def test_a_net_that_is_not_finite_outside_of_its_layers_is_said_to_be_so(factor):
    net = metaquantize(Scaled(factor))
    net.unused.weight.data.fill_(torch.nan)
    with pytest.raises(NotFinite) as error:
        TrainingLoop(net, SGD(net.parameters(), lr=0.1), BWN()).step(torch.randn(2, 3), TARGETS)
    assert error.value.args[1] == "first in the net itself, outside of its layers"


def test_the_class_of_a_quantizer_in_its_place_is_named():
    net, _ = net_and_optimizee()
    with pytest.raises(ValueError, match=r"the quantizer BWN is a class: BWN\(\) makes one of it"):
        net(IMAGES, BWN)


def test_a_loss_for_each_image_is_named():
    loop = TrainingLoop(*net_and_optimizee(), BWN(), criterion=nn.CrossEntropyLoss(reduction="none"))
    with pytest.raises(ValueError, match=r"criterion must return a scalar, not a tensor of shape \(2,\)"):
        loop.step(IMAGES, TARGETS)


def test_progress_ends_at_1():
    """Also where a loop goes on for longer than it said."""
    loop = TrainingLoop(*net_and_optimizee(), BWN(), estimator=EDE(), iterations=2)
    found = []
    for _ in range(4):
        found.append(loop.progress.item())
        loop.step(IMAGES, TARGETS)
    assert found == [0.0, 0.5, 1.0, 1.0]
    loop.load_state_dict(loop.state_dict())
    assert loop.progress == 1


def test_what_a_training_forward_computes_with_must_have_qs_shape():
    class Short(EDE):
        relaxed = True

        def forward_value(self, x, q, progress):
            return q[:2]

    net, optimizee = net_and_optimizee()
    loop = TrainingLoop(net, optimizee, BWN(), estimator=Short(), iterations=2)
    with pytest.raises(
        BadPart,
        match=r"Short\.forward_value must return a tensor of q's shape and dtype, \(9,\).*, not \(2,\)",
    ):
        loop.step(IMAGES, TARGETS)


def test_a_compiled_m_is_one():
    net, optimizee = net_and_optimizee()
    M = torch.compile(MetaFC())
    TrainingLoop(net, optimizee, BWN(), M, torch.optim.Adam(M.parameters()))


def test_a_calibration_that_is_not_like_w_is_named():
    class Odd(BWN):
        def calibration(self, W, layout=None):
            return None

    net, optimizee = net_and_optimizee()
    loop = TrainingLoop(net, optimizee, Odd(), *learned())
    loop.step(IMAGES, TARGETS)
    with pytest.raises(BadPart, match=r"Odd\.calibration must return a tensor of W's shape and dtype, .*, not NoneType"):
        loop.step(IMAGES, TARGETS)


def test_wrong_loops_are_refused(tiny_net):
    with pytest.raises(ValueError, match="backwards"):
        make_loop(tiny_net, order="backwards")
    with pytest.raises(ValueError, match="meta network"):
        TrainingLoop(tiny_net, SGD(tiny_net.parameters()), get_quantizer("dorefa"), MetaDesignedMultiFC())
    with pytest.raises(ValueError, match="needs a quantizer"):
        make_loop(tiny_net, "FC-Grad", quantizer=None)
    images, gradients = torch.zeros(1, 3, 8, 8).double(), {"conv1": ((), torch.zeros(16, 3, 3, 3), None)}
    with pytest.raises(ValueError, match="meta gradients need a quantizer"):
        tiny_net(images, None, gradients)
    with pytest.raises(ValueError, match=r"no meta gradient for layer1\.0\.conv1, .*, fc"):
        tiny_net(images, "dorefa", gradients)
    gradients = {layer.name: ((), torch.zeros_like(layer.weight), None) for layer in tiny_net.meta.layers}
    with pytest.raises(RuntimeError, match=r"conv1: a meta gradient needs the refined gradient in weight\.grad"):
        tiny_net(images, "dorefa", gradients)


class Detached(MetaFC):
    """An M that loses the graph to phi, or keeps one in its state, or whose gain is no number."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def forward(self, g_W_hat, W_tilde, state=None):
        g_W_tilde, _ = super().forward(g_W_hat, W_tilde)
        return (g_W_tilde.detach() if self.fault == "graph" else g_W_tilde), ({"h": g_W_tilde} if self.fault == "state" else {})

    def gain(self):
        return torch.ones(2) if self.fault == "gain" else super().gain()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("graph", "Detached returned g_W_tilde without a gradient for phi"),
        ("state", "Detached must return a detached state, and its h has a graph"),
        ("gain", r"Detached.gain must return one number or None, not a tensor of shape \(2,\)"),
    ],
)
def test_an_m_that_would_not_be_trained_is_named(fault, words):
    net, optimizee = net_and_optimizee()
    loop = TrainingLoop(net, optimizee, BWN(), *learned(Detached(fault)))
    loop.step(IMAGES, TARGETS)
    with pytest.raises(BadPart, match=words):
        loop.compare_with_ste() if fault == "gain" else loop.step(IMAGES, TARGETS)


def test_a_gain_may_be_a_python_number():
    class Twice(MetaFC):
        def gain(self):
            return 2.0

    net, optimizee = net_and_optimizee()
    loop = TrainingLoop(net, optimizee, BWN(), *learned(Twice()))
    for _ in range(2):
        loop.step(IMAGES, TARGETS)
    assert loop.compare_with_ste().gain == 2.0


def test_an_optimizee_without_refine_is_refused():
    class Bare(Optimizee):
        pass

    with pytest.raises(ValueError, match=r"Bare does not define refine\(\)"):
        Bare(MetaFC().parameters(), {"lr": 1.0, "weight_decay": 0.0})
