"""The architecture, its meta layers, and the released base models' accuracies."""

import pytest
import torch
from torch import nn

from meta_utils.metaquantize import metaquantize
from models_CIFAR import quantized_meta_resnet, resnet
from utils.choices import MODELS
from utils.dataset import get_dataloader
from utils.miscellaneous import get_layer
from utils.quantize import evaluate
from utils.run.start.base_model import load_base_model


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_layer_name_list_names_exactly_the_meta_layers(depth):
    net = getattr(quantized_meta_resnet, f"resnet{depth}_cifar")()
    assert len(net.layer_name_list) == depth + 2  # depth - 1 convolutions and a classifier, and 2 shortcuts
    named = {name: module for name, module in net.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}
    assert [name for name, _ in net.layer_name_list] == list(named)
    for name, path in net.layer_name_list:
        assert get_layer(net, path) is named[name]


def test_resnet20_has_22_meta_layers():
    net = quantized_meta_resnet.resnet20_cifar(bitW=1)
    shapes = [tuple(layer.weight.shape) for layer in net.meta.layers]
    assert len(shapes) == 22
    assert shapes[0] == (16, 3, 3, 3)
    assert shapes[-1] == (10, 64)
    assert [shape for shape in shapes if shape[2:] == (1, 1)] == [(32, 16, 1, 1), (64, 32, 1, 1)]
    assert sum(len(shape) == 4 and shape[2] == 3 for shape in shapes[1:]) == 18


@pytest.mark.parametrize("num_classes", [10, 100])
def test_a_quantized_net_is_the_plain_net(num_classes):
    torch.manual_seed(0)
    plain = resnet.ResNet(20, num_classes)
    quantized = quantized_meta_resnet.resnet20_cifar(num_classes=num_classes)
    quantized.load_state_dict(plain.state_dict(), strict=True)
    images = torch.randn(2, 3, 32, 32)
    for mode in (True, False):
        outputs = [net.train(mode)(images) for net in (plain, quantized)]
        assert outputs[0].shape == (2, num_classes)
        assert torch.equal(*outputs)


@pytest.mark.parametrize(("depth", "classes"), [(21, 10), (2, 10), (20, 1)])
def test_impossible_nets_are_refused(depth, classes):
    with pytest.raises(ValueError, match=str(depth if depth != 20 else classes)):
        resnet.ResNet(depth, num_classes=classes)


@pytest.mark.parametrize(
    ("model", "dataset", "accuracy"),
    [
        ("ResNet20", "CIFAR10", 91.50),
        pytest.param("ResNet32", "CIFAR10", 92.13, marks=pytest.mark.slow),
        pytest.param("ResNet44", "CIFAR10", 93.56, marks=pytest.mark.slow),
        pytest.param("ResNet56", "CIFAR100", 71.22, marks=pytest.mark.slow),
    ],
)
def test_released_base_models_load_strictly_and_reach_their_accuracy(model, dataset, accuracy, data_root, pretrained_root):
    loader = get_dataloader(dataset, "test", 100, data_root=data_root)
    net = metaquantize(MODELS.load(model)(num_classes=loader.image_set.num_classes)).to(memory_format=torch.channels_last)
    load_base_model(pretrained_root / f"{model}-{dataset}-pretrain.pth", net, model)
    result = evaluate(net, None, loader)
    assert result.top1 == pytest.approx(accuracy, abs=0.011)  # one image in 10,000 is 0.01
    assert result.top5 > result.top1


def test_a_net_has_as_many_bits_as_it_was_made_with():
    net = quantized_meta_resnet.resnet20_cifar(bitW=2)
    net(torch.randn(2, 3, 8, 8), "dorefa")
    assert len(net.conv1.quantized_weight.unique()) == 4
