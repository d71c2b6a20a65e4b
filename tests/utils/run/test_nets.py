"""A net is tried on images before a run begins, and is afterwards as it was."""

import pytest
import torch
from torch import nn

from utils.choices import MODELS
from utils.dataset import load_images, make_loader
from utils.environment import random_states
from utils.errors import BadInput
from utils.run.build import build_net
from utils.run.nets import check_net_name, plain_net


class Small(nn.Sequential):
    """Random in training, with running statistics, and with a part in eval mode."""

    def __init__(self, num_classes, *more):
        super().__init__(nn.Conv2d(3, 4, 8, stride=8), nn.BatchNorm2d(4), nn.BatchNorm2d(4).eval(), nn.Dropout())
        self.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), *more, nn.Linear(4, num_classes)])


class PerImage(Small):
    """Normalises what is one number per channel and image."""

    def __init__(self, num_classes):
        super().__init__(num_classes, nn.BatchNorm1d(4))


class Auxiliary(Small):
    """With a second result in training."""

    def forward(self, images):
        logits = super().forward(images)
        return (logits, images) if self.training else logits


class Pair(Small):
    def forward(self, images):
        return super().forward(images), images


class Averages(Small):
    """With a running mean; how: assigned anew, in place, at the first training forward."""

    def __init__(self, num_classes, how, persistent=False):
        super().__init__(num_classes)
        self.how = how
        self.register_buffer("average", None if how == "first" else torch.zeros(3), persistent=persistent)

    def forward(self, images):
        mean = images.mean(dim=(0, 2, 3))
        if self.training and self.how == "in place":
            self.average.lerp_(mean, 0.1)
        elif self.training:
            self.average = mean if self.average is None else self.average.lerp(mean, 0.1)
        return super().forward(images - 0 if self.average is None else images - self.average[:, None, None])


class Caches(Small):
    """Computes a constant in its first forward, and keeps it; start: what stands there before."""

    def __init__(self, num_classes, start):
        super().__init__(num_classes)
        self.register_buffer("mask", start, persistent=False)

    def forward(self, images):
        if self.mask is None or not len(self.mask):
            self.mask = torch.ones_like(images[:1])
        return super().forward(images * self.mask)


class Extra(Small):
    def get_extra_state(self):
        return {"calls": 3}

    def set_extra_state(self, state):
        pass


class Lazy(nn.Sequential):
    """What the first forward makes: weights, and running statistics."""

    def __init__(self, num_classes):
        super().__init__(nn.LazyConv2d(8, 8, stride=8), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(num_classes))


@pytest.fixture(autouse=True)
def nets(monkeypatch):
    for net in (Small, PerImage, Pair, Auxiliary, Extra, Lazy):
        monkeypatch.setitem(MODELS, net.__name__, net)
    monkeypatch.setitem(MODELS, "deaf", lambda num_classes: Small(10))
    monkeypatch.setitem(MODELS, "large", lambda num_classes: nn.Sequential(nn.Conv2d(3, 4, 64), nn.Flatten()))
    monkeypatch.setitem(MODELS, "without", lambda: Small(10))


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("one_image", [False, True])
def test_trying_a_net_leaves_no_trace(one_image):
    torch.manual_seed(3)
    expected = Small(7)
    states = random_states()
    torch.manual_seed(3)
    net = plain_net("Small", 7, one_image)
    assert all(same(states[name], value) for name, value in random_states().items())
    assert [module.training for module in net.modules()] == [module.training for module in expected.modules()]
    for (name, value), other in zip(net.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("large", ["-m large: this net cannot take 32x32 images (RuntimeError: ", "Kernel size"]),
        ("Pair", ["-m Pair: for 2 images this net must return logits of shape (2, 7), not tuple"]),
        ("Auxiliary", ["-m Auxiliary: for 2 images this net must return logits of shape (2, 7) in training, not tuple"]),
        ("deaf", ["-m deaf: for 2 images this net must return logits of shape (2, 7), not (2, 10)"]),
        ("Extra", ["-m Extra: this net's state dict must hold tensors alone, and _extra_state (of get_extra_state) is none"]),
        ("without", ["-m without: this net cannot be made for 32x32 images and 7 classes (TypeError: ", "num_classes"]),
        (
            "torchvision:vit_h_14",
            ["-m torchvision:vit_h_14: this net cannot be made for 32x32 images and 7 classes", "patch size"],
        ),
        ("torchvision:resnet19", ["-m/--model: unknown net torchvision:resnet19", "closest: resnet18"]),
    ],
)
def test_a_net_that_cannot_be_trained_is_one_line(name, words):
    with pytest.raises(BadInput) as error:
        plain_net(name, 7)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_a_batch_of_one_image_is_tried_where_there_will_be_one():
    assert plain_net("PerImage", 7)
    with pytest.raises(BadInput, match=r"-m PerImage: this net cannot train on a batch of one image.*--drop-last \(ValueError: "):
        plain_net("PerImage", 7, one_image=True)


def test_a_machine_without_memory_is_not_the_nets_fault(monkeypatch):
    def make(num_classes):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setitem(MODELS, "huge", make)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        plain_net("huge", 7)


def test_a_name_is_checked_without_making_the_net():
    check_net_name("Small")
    check_net_name("torchvision:vit_h_14")
    with pytest.raises(BadInput, match="unknown net torchvision:nothing"):
        check_net_name("torchvision:nothing")


@pytest.mark.parametrize("persistent", [False, True])
def test_a_buffer_that_training_makes_would_begin_with_the_values_of_the_trial(persistent, monkeypatch):
    monkeypatch.setitem(MODELS, "averages", lambda num_classes: Averages(num_classes, "first", persistent))
    with pytest.raises(
        BadInput, match="-m averages: training makes the buffer average of this net: register it with its first v"
    ):
        plain_net("averages", 7)


def test_a_buffer_may_hold_nan(monkeypatch):
    class Unknown(Small):
        def __init__(self, num_classes):
            super().__init__(num_classes)
            self.register_buffer("unknown", torch.full((2,), torch.nan), persistent=False)

    monkeypatch.setitem(MODELS, "unknown", Unknown)
    assert plain_net("unknown", 7).unknown.isnan().all()


@pytest.mark.parametrize("how", ["anew", "in place"])
def test_a_buffer_that_training_changes_is_in_the_state_dict(how, monkeypatch):
    """It would not be in a checkpoint: `evaluate` and a resumed run would compute with other values."""
    monkeypatch.setitem(MODELS, "averages", lambda num_classes: Averages(num_classes, how))
    with pytest.raises(
        BadInput, match="-m averages: training changes the buffer average of this net, which is not in its"
    ) as error:
        plain_net("averages", 7)
    assert "\n" not in str(error.value)
    monkeypatch.setitem(MODELS, "averages", lambda num_classes: Averages(num_classes, how, persistent=True))
    assert plain_net("averages", 7)


@pytest.mark.parametrize("start", [None, torch.empty(0)], ids=["none", "empty"])
def test_a_buffer_may_cache_a_constant(start, monkeypatch):
    monkeypatch.setitem(MODELS, "caches", lambda num_classes: Caches(num_classes, start))
    assert plain_net("caches", 7, one_image=True)


def test_the_weights_of_a_lazy_net_are_random_numbers_of_their_own():
    """What is drawn after the net, such as phi, is not drawn from the same state of the generator."""
    torch.manual_seed(3)
    net, after = plain_net("Lazy", 7), nn.Conv2d(3, 8, 8)
    assert not torch.equal(net[0].weight, after.weight)
    torch.manual_seed(3)
    first = nn.Conv2d(3, 8, 8)
    assert torch.equal(net[0].weight, first.weight)
    assert [net[1].running_mean.tolist(), net[1].running_var.tolist(), int(net[1].num_batches_tracked)] == [
        [0.0] * 8,
        [1.0] * 8,
        0,
    ]


def test_what_has_four_axes_is_channels_last_and_all_else_as_it_was(monkeypatch):
    """As torch's own conversion does it, which fails on five axes."""

    class Axes(nn.Sequential):
        def __init__(self, num_classes, more=()):
            super().__init__(nn.Conv2d(3, 4, 8, stride=8), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(64, num_classes), *more)
            self.register_buffer("four", torch.zeros(2, 3, 4, 5))

    class Five(Axes):
        def __init__(self, num_classes):
            super().__init__(num_classes, [nn.Unflatten(1, (1, 1, 1, num_classes)), nn.Conv3d(1, 1, 1), nn.Flatten()])
            self.register_buffer("five", torch.zeros(2, 3, 4, 5, 6))

    monkeypatch.setitem(MODELS, "five", Five)
    loader = make_loader("resident", load_images("Digits", "test"), "test", 100)
    net, expected = build_net("five", loader, torch.device("cpu")), Axes(10).to(memory_format=torch.channels_last)
    for name, value in expected.state_dict().items():
        assert net.state_dict()[name].stride() == value.stride(), name
    assert net.five.is_contiguous()
    assert isinstance(net[5].weight, nn.Parameter)
