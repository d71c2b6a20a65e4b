"""A loop whose parts are not one another's, or change between iterations: nothing is trained wrongly without a word."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from training_loops import make_loop

from meta_utils.estimators import EDE
from meta_utils.helpers import compare_with_ste
from meta_utils.install import install_quantizer
from meta_utils.layer_statistics import first_levels, layer_statistics
from meta_utils.meta_network import MetaFC
from meta_utils.metaquantize import metaquantize, plain_copy
from meta_utils.SGD import SGD
from meta_utils.training import TrainingLoop
from utils.errors import BadPart
from utils.quantize import BWN, evaluate, get_quantizer
from utils.quantizers.discretize import BY_STE, Estimator
from utils.quantizers.trained import LSQ, TrainedQuantizer


def copied(net, optimizee):
    return copy.deepcopy(net), optimizee


def with_a_parameter_more(net, optimizee):
    return net, SGD([*net.parameters(), nn.Parameter(torch.ones(1))], lr=0.1)


@pytest.mark.parametrize("change", [copied, with_a_parameter_more])
def test_an_optimizee_of_other_parameters_is_refused(change, tiny_net):
    net, optimizee = change(tiny_net, SGD(tiny_net.parameters(), lr=0.1))
    with pytest.raises(ValueError, match="the optimizee has parameters that are not the net's"):
        TrainingLoop(net, optimizee, BWN())


@pytest.mark.parametrize("method", ["STE", "FC-Grad"])
def test_parameters_that_are_replaced_between_iterations_are_noticed(method, tiny_net, batches):
    loop = make_loop(tiny_net, method)
    first, second = batches(2)
    loop.step(*first)
    tiny_net.load_state_dict({name: value.clone() for name, value in tiny_net.state_dict().items()}, assign=True)
    with pytest.raises(ValueError, match="the optimizee has parameters that are not the net's"):
        loop.step(*second)


def test_a_learned_gradient_is_refused_in_eval_mode_where_the_layers_do_not_show_g_w_hat(tiny_net, batches):
    loop = make_loop(tiny_net, "FC-Grad")
    first, second, third = batches(3)
    loop.step(*first)
    tiny_net.eval()
    with pytest.raises(ValueError, match="a learned gradient needs the net in train mode"):
        loop.step(*second)
    tiny_net.train()
    tiny_net.bn1.eval()  # a part may be frozen
    before = tiny_net.meta.get("g_W_hat")
    loop.step(*third)
    assert not torch.equal(tiny_net.meta.get("g_W_hat"), before)


def test_a_weight_that_is_frozen_later_is_refused_by_a_learned_gradient_and_stays_with_ste(tiny_net, batches):
    other = copy.deepcopy(tiny_net)
    for method, net in (("STE", tiny_net), ("FC-Grad", other)):
        loop = make_loop(net, method)
        first, second = batches(2)
        loop.step(*first)
        net.conv1.weight.requires_grad_(False)
        net.conv1.weight.grad = None
        before = net.conv1.weight.clone()
        if method == "STE":
            loop.step(*second)
            assert torch.equal(net.conv1.weight, before)
        else:
            with pytest.raises(ValueError, match="conv1 does not require a gradient"):
                loop.step(*second)


@pytest.mark.parametrize(("method", "order"), [("STE", "notebook"), ("FC-Grad", "notebook"), ("FC-Grad", "paper")])
def test_a_copy_of_a_state_can_be_loaded_more_than_once(method, order, tiny_net, batches):
    loop = make_loop(tiny_net, method, optimizee=SGD(tiny_net.parameters(), lr=0.05, momentum=0.9), order=order)
    data = batches(7)
    for batch in data[:3]:
        loop.step(*batch)
    state = copy.deepcopy(loop.state_dict())
    losses = []
    for _ in range(3):
        losses.append([loop.step(*batch)[0].item() for batch in data[3:]])
        loop.load_state_dict(state)
    assert losses[0] == losses[1] == losses[2]


class Checkpointed(nn.Module):
    def __init__(self, layer, use_reentrant):
        super().__init__()
        self.layer, self.fc, self.use_reentrant = layer, nn.Linear(4, 2), use_reentrant

    def forward(self, x):
        return self.fc(checkpoint(self.layer, x, use_reentrant=self.use_reentrant))


class Attention(nn.MultiheadAttention):
    def forward(self, x):
        return super().forward(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("make", [lambda: nn.Linear(4, 4), lambda: Attention(4, 2)], ids=["linear", "attention"])
def test_a_checkpointed_layer_is_refused_where_its_second_call_would_compute_with_w(make, use_reentrant):
    plain = Checkpointed(make(), use_reentrant)
    net = metaquantize(copy.deepcopy(plain))
    images = torch.randn(3, 4, requires_grad=True)
    outputs = net(images, BWN())
    with torch.no_grad():
        net(images)  # as of a teacher
    with pytest.raises(
        BadPart, match=r"layer.* is called again in the backward, without W_hat: the net must not use checkpointing"
    ):
        outputs.sum().backward()
    for one in (net, plain):  # in full precision both calls compute with W
        one.zero_grad()
        one(images).square().sum().backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(net.parameters(), plain.parameters(), strict=True))
    assert type(plain_copy(net).layer) is type(plain.layer)
    assert type(pickle.loads(pickle.dumps(net)).layer) is type(net.layer)


def test_a_whole_net_may_be_checkpointed(tiny_net, batches):
    """Its second forward quantizes as the first one."""
    (images, targets), found = batches(1)[0], []
    for call in (lambda: tiny_net(images, BWN()), lambda: checkpoint(tiny_net, images, BWN(), use_reentrant=False)):
        tiny_net.zero_grad()
        nn.functional.cross_entropy(call(), targets).backward()
        found.append([p.grad.clone() for p in tiny_net.parameters()])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("method", ["STE", "FC-Grad"])
def test_a_parameter_that_is_added_later_is_in_no_group_and_stays(method, tiny_net, batches):
    loop = make_loop(tiny_net, method)
    first, second, third = batches(3)
    loop.step(*first)
    tiny_net.extra = nn.Parameter(torch.ones(10, dtype=torch.float64))
    forward = tiny_net.fc.forward
    tiny_net.fc.forward = lambda x: forward(x) * tiny_net.extra
    before = tiny_net.conv1.weight.clone()
    for batch in (second, third):
        loop.step(*batch)
    assert torch.equal(tiny_net.extra, torch.ones(10))
    assert not torch.equal(tiny_net.conv1.weight, before)


def test_weights_that_are_tied_later_are_noticed():
    net = metaquantize(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))
    net[1].weight = net[0].weight
    with pytest.raises(RuntimeError, match="two layers share their weight, which they did not when metaquantize saw them"):
        net(torch.ones(2, 3), BWN())


def test_a_copys_quantizer_is_its_own(tiny_net, batches):
    """After training, the original's quantizer has other parameters than the copy's."""
    quantizer = install_quantizer(tiny_net, LSQ(2).double())
    best = copy.deepcopy(tiny_net)
    words = "is not the net's own, which is net.meta.quantizer"
    for call in (
        lambda: evaluate(best, quantizer, batches(1)),
        lambda: plain_copy(best, quantizer),
        lambda: best.meta.quantized(quantizer),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    assert evaluate(best, best.meta.quantizer, batches(1)) == evaluate(tiny_net, quantizer, batches(1))


class Counting(TrainedQuantizer):
    """Counts its calls in train mode, as one with a running mean would."""

    names = ("s",)

    def __init__(self, bits=1):
        super().__init__(bits)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def first_values(self, part):
        return (part.abs().mean(),)

    def quantize(self, W_tilde, W=None, layout=None, discretize=BY_STE):
        self.calls += self.training
        return self.scale("s", layout) * discretize(W_tilde, torch.where(W_tilde >= 0, 1.0, -1.0).to(W_tilde), layout)


def test_what_is_measured_changes_no_quantizer(tiny_net, batches):
    quantizer = install_quantizer(tiny_net, Counting().double())
    M = MetaFC().double()
    loop = TrainingLoop(tiny_net, SGD(tiny_net.parameters(), lr=0.1), quantizer, M, torch.optim.Adam(M.parameters()))
    for batch in batches(2):
        loop.step(*batch)
    assert quantizer.calls == 2
    layer_statistics(loop, first_levels(loop, is_epochs_end=True))
    compare_with_ste(M, tiny_net, quantizer, {})
    evaluate(tiny_net, quantizer, batches(1))
    plain_copy(tiny_net, quantizer)
    assert quantizer.calls == 2
    assert quantizer.training


class InPlace(Estimator):
    def __call__(self, g_q, x, q, progress):
        return g_q.masked_fill_(x < 0, 0.0)


def test_an_estimator_that_changes_its_gradient_in_place_is_measured_as_it_trains(tiny_net, batches):
    loop = TrainingLoop(tiny_net, SGD(tiny_net.parameters(), lr=0.1), get_quantizer("dorefa"), estimator=InPlace())
    loop.step(*batches(1)[0])
    rows, _ = layer_statistics(loop, {}).read(1)
    assert all(0.2 < row.cosine < 0.9 for row in rows)


def test_progress_is_no_number_where_the_length_is_not_known(tiny_net, batches):
    """An estimator that depends on it, and does not say so, cannot go on for ever as at the beginning."""

    class Unsaid(EDE):
        scheduled = False

    loop = TrainingLoop(tiny_net, SGD(tiny_net.parameters(), lr=0.1), BWN(), estimator=Unsaid())
    loop.step(*batches(1)[0])
    assert loop.progress.isnan()
    assert tiny_net.conv1.weight.grad.isnan().all()


def test_what_refine_returns_would_be_lost(tiny_net, batches):
    class Returns(SGD):
        def refine(self, group, params, grads, states):
            return [2 * grad for grad in grads]

    with pytest.raises(BadPart, match=r"Returns\.refine must change the gradients in place and return None"):
        make_loop(tiny_net, optimizee=Returns(tiny_net.parameters(), lr=0.1)).step(*batches(1)[0])


def test_a_loops_quantizer_cannot_be_replaced(tiny_net):
    with pytest.raises(AttributeError, match="quantizer"):
        make_loop(tiny_net).quantizer = BWN()


def test_a_net_may_return_a_dictionary():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            return {"logits": self.fc(x), "name": "fc"}

    net = metaquantize(Named())
    loss = nn.CrossEntropyLoss()
    loop = TrainingLoop(net, SGD(net.parameters(), lr=0.1), BWN(), criterion=lambda outputs, y: loss(outputs["logits"], y))
    _, outputs = loop.step(torch.ones(2, 3), torch.tensor([0, 1]))
    assert outputs["logits"].shape == (2, 2)
    assert not outputs["logits"].requires_grad
    assert outputs["name"] == "fc"
