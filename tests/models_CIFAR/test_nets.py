"""The plain nets by name: their layers, sizes and initialisation, and torchvision's classifiers for 32x32 images."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models

from meta_utils.metaquantize import metaquantize
from models_CIFAR.labnet import LABNet
from models_CIFAR.torchvision_nets import torchvision_net
from models_CIFAR.vgg import VGGSmall
from utils.choices import MODELS

CONVOLUTIONS = [(128, 3, 3, 3), (128, 128, 3, 3), (256, 128, 3, 3), (256, 256, 3, 3), (512, 256, 3, 3), (512, 512, 3, 3)]


def weight_shapes(net):
    return [tuple(layer.weight.shape) for layer in net.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]


@pytest.fixture(scope="module")
def nets():
    torch.manual_seed(0)
    return VGGSmall(), LABNet()


def test_their_layers_are_the_papers(nets):
    vgg, labnet = nets
    assert weight_shapes(vgg) == [*CONVOLUTIONS, (10, 512 * 4 * 4)]
    assert weight_shapes(labnet) == [*CONVOLUTIONS, (1024, 512 * 4 * 4), (1024, 1024), (10, 1024)]
    kinds = [type(layer).__name__ for layer in vgg]
    pair = ["Conv2d", "BatchNorm2d", "ReLU"] * 2 + ["MaxPool2d"]
    assert kinds == pair * 3 + ["Flatten", "Linear"]
    assert [type(layer).__name__ for layer in labnet] == pair * 3 + ["Flatten"] + ["Linear", "BatchNorm1d", "ReLU"] * 2 + [
        "Linear"
    ]


@pytest.mark.parametrize(("classes", "sizes"), [(10, [4_660_106, 14_029_706]), (100, [5_397_476, 14_121_956])])
def test_their_sizes(classes, sizes):
    with torch.device("meta"):
        nets = VGGSmall(classes), LABNet(classes)
    assert [sum(p.numel() for p in net.parameters()) for net in nets] == sizes
    convolutions, norms = 4_574_592, 2 * 1792  # weights without bias; scale and shift of 2 * (128 + 256 + 512) channels
    assert sizes[0] == convolutions + norms + (8192 + 1) * classes
    assert sizes[1] == convolutions + norms + 8192 * 1024 + 1024 * 1024 + 2 * 2048 + (1024 + 1) * classes


def test_they_begin_as_he_et_al_say_and_their_logits_are_finite(nets):
    for net in nets:
        *hidden, classifier = [layer for layer in net if isinstance(layer, (nn.Conv2d, nn.Linear))]
        for layer in hidden:
            fan_out = layer.weight[:, 0].numel()
            assert layer.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
            assert layer.bias is None
        assert classifier.weight.abs().max() <= classifier.in_features**-0.5  # torch's own
        logits = net(torch.randn(2, 3, 32, 32))
        assert logits.shape == (2, 10)
        assert torch.isfinite(logits).all()


def test_every_layer_of_theirs_is_quantized_and_learns(nets):
    vgg, labnet = (metaquantize(copy.deepcopy(net)) for net in nets)
    assert (len(vgg.layer_name_list), len(labnet.layer_name_list)) == (7, 9)
    F.cross_entropy(vgg(torch.randn(2, 3, 32, 32), "dorefa"), torch.tensor([0, 1])).backward()
    for layer in vgg.meta.layers:
        assert layer.weight.grad.abs().sum() > 0, layer.name
    assert vgg.conv1.quantized_weight.unique().tolist() == vgg.fc.quantized_weight.unique().tolist() == [-1, 1]


@pytest.mark.parametrize("name", ["VGG-small", "LABNet"])
def test_one_class_is_refused(name):
    with pytest.raises(ValueError, match="at least 2, not 1"):
        MODELS.load(name)(num_classes=1)


def test_a_classifier_is_torchvisions_own():
    torch.manual_seed(0)
    ours = MODELS.load("torchvision:shufflenet_v2_x0_5")(num_classes=7)
    torch.manual_seed(0)
    theirs = models.shufflenet_v2_x0_5(num_classes=7)
    assert type(ours) is type(theirs)
    for (name, value), (other, expected) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(value, expected)


@pytest.mark.filterwarnings("error")  # torchvision's, of defaults that will change
def test_classifiers_are_built_for_32x32_images_and_without_auxiliary_heads():
    with torch.device("meta"):
        nets = {name: torchvision_net(name)(7).eval() for name in ("vit_b_16", "vit_b_32", "googlenet", "inception_v3")}
        images = torch.zeros(2, 3, 32, 32)
    assert nets["vit_b_16"].encoder.pos_embedding.shape == (1, 1 + 2 * 2, 768)
    assert nets["vit_b_32"].encoder.pos_embedding.shape == (1, 1 + 1, 768)
    for name in ("googlenet", "inception_v3"):
        assert not nets[name].aux_logits
        assert not [key for key in nets[name].state_dict() if "aux" in key.lower()]
    for name in ("vit_b_16", "vit_b_32", "googlenet"):
        assert nets[name](images).shape == (2, 7)


def test_every_classifier_of_torchvision_has_a_name():
    for name in models.list_models(module=models):
        assert callable(MODELS.load(f"torchvision:{name}"))


@pytest.mark.parametrize(("name", "closest"), [("ResNet18", "resnet18"), ("resnet19", "resnet18"), ("vit_b16", "vit_b_16")])
def test_an_unknown_classifier_is_refused_with_the_closest_ones(name, closest):
    with pytest.raises(ValueError, match=rf"unknown net torchvision:{name}: .*; closest: .*\b{closest}\b"):
        MODELS.load(f"torchvision:{name}")


def test_a_detector_is_no_classifier():
    with pytest.raises(ValueError, match="unknown net torchvision:fasterrcnn_resnet50_fpn"):
        MODELS.load("torchvision:fasterrcnn_resnet50_fpn")
