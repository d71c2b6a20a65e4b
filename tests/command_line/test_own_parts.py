"""Parts of one's own that cannot work: one line before training."""

from dataclasses import replace

import pytest
import torch
from resumed import only_run
from torch import nn

from meta_utils.meta_network import MetaNetwork
from meta_utils.optimizee import Optimizee
from meta_utils.prox_quant import ProxQuant
from meta_utils.SGD import SGD
from utils.batches import ImageSet
from utils.choices import DATASETS, META_NETWORKS, MODELS, OPTIMIZEES, PROXIMAL, QUANTIZERS, OptimizeeChoice
from utils.quantize import BWN
from utils.quantizers.trained import LSQ

IMAGES = torch.randint(256, (8, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
MINE = ImageSet(IMAGES, torch.arange(8) % 2, 2, (0.5,) * 3, (0.25,) * 3)


@pytest.fixture
def command(tmp_path, tiny_set):
    """The arguments of a run of one iteration."""
    data = ["-d", tiny_set, "-bs", 8, "-n", 1, "--pretrained", "none", "--results-root", tmp_path]
    return ["train", "-m", "ResNet8", "-meta", "STE", *data]


class WithoutDecay(Optimizee):
    def __init__(self, params, lr, weight_decay):
        super().__init__(params, {"lr": lr})

    def refine(self, group, params, grads, states):
        pass


class Counts:
    """What a state dict cannot hold as a tensor."""

    def get_extra_state(self):
        return {"calls": 3}

    def set_extra_state(self, state):
        pass


class Remembers(Counts, MetaNetwork):
    def forward(self, g_W_hat, W_tilde, state=None):
        return g_W_hat, {}


class Counting(Counts, LSQ):
    pass


class Net(Counts, nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Conv2d(3, 4, 8, stride=8), nn.Flatten(), nn.Linear(64, num_classes))


CASES = {  # registry, entry, flag, words of the line
    "optimizee's class": (OPTIMIZEES, SGD, "-o", "--optimizer own: OPTIMIZEES takes an OptimizeeChoice of a class, not <class"),
    "optimizee without decay": (
        OPTIMIZEES,
        OptimizeeChoice(WithoutDecay, 0.0, 0.0),
        "-o",
        "--optimizer own: the defaults of WithoutDecay lack weight_decay",
    ),
    "a quantizer": (QUANTIZERS, BWN(), "-q", "own is registered as BWN(bits=1), and not as a class that makes a quantizer"),
    "a trained quantizer": (QUANTIZERS, LSQ(), "-q", "-q/--quantizer own: own is registered as LSQ(bits=1), and not as a class"),
    "a number": (QUANTIZERS, 5, "-q", "-q/--quantizer own: own is registered as 5, and not as a class"),
    "quantizer with state": (
        QUANTIZERS,
        Counting,
        "-q",
        "--quantizer own: its state dict must hold tensors alone, and quantizer._e",
    ),
    "proximal call": (
        PROXIMAL,
        ProxQuant(BWN()),
        "-meta",
        "--backward own: PROXIMAL takes a class that is made from the quantizer",
    ),
    "M with state": (
        META_NETWORKS,
        Remembers,
        "-meta",
        "--backward own: its state dict must hold tensors alone, and _extra_state",
    ),
    "net with state": (MODELS, Net, "-m", "-m own: this net's state dict must hold tensors alone, and _extra_state"),
}


@pytest.mark.parametrize(("registry", "entry", "flag", "words"), CASES.values(), ids=CASES)
def test_what_train_cannot_use_is_one_line(registry, entry, flag, words, command, refuses, monkeypatch):
    monkeypatch.setitem(registry, "own", entry)
    refuses([*command, flag, "own"], [words])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_classes": 3}, "the train set has num_classes 2, and the test set num_classes 3"),
        ({"mean": (0.5, 0.5, 0.4)}, "the train set has mean 0.5 0.5 0.5, and the test set mean 0.5 0.5 0.4"),
        ({"std": [0.25, 0.25, 0.26]}, "the train set has std 0.25 0.25 0.25, and the test set std 0.25 0.25 0.26"),
    ],
)
def test_the_splits_of_a_data_set_go_together(changes, words, command, call_main, monkeypatch, tmp_path):
    """What the test set's images are normalised by is what the net is trained for."""
    monkeypatch.setitem(DATASETS, "mine", lambda split, root: MINE if split == "train" else replace(MINE, **changes))
    outcome = call_main(*command, "-d", "mine")
    assert (outcome.code, outcome.err) == (1, f"main.py: error: --dataset mine: {words}\n")
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_tested_on_images_that_are_normalised_as_it_says(command, call_main, monkeypatch, tmp_path):
    """Its digest of the data is one of pixels and classes."""
    monkeypatch.setitem(DATASETS, "mine", lambda split, root: MINE)
    file = tmp_path / "net.safetensors"
    assert call_main(*command, "-d", "mine").code == 0
    assert call_main("export", only_run(tmp_path), file).code == 0
    monkeypatch.setitem(DATASETS, "mine", lambda split, root: replace(MINE, mean=(0.5, 0.5, 0.5 + 1e-9)))  # another machine's
    assert call_main("evaluate", file).code == 0
    monkeypatch.setitem(DATASETS, "mine", lambda split, root: replace(MINE, mean=(0.5, 0.5, 0.4)))
    outcome = call_main("evaluate", file)
    words = f"{file} is of a net for images that are normalised by mean 0.5 0.5 0.5, and the data set's by mean 0.5 0.5 0.4"
    assert (outcome.code, outcome.out, outcome.err) == (2, "", f"main.py: error: {words}\n")
