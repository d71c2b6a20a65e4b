"""The CIFAR ResNets with every layer's weights quantized, by the names that the authors' notebook uses."""

from functools import partial

from torch import nn

from meta_utils.metaquantize import metaquantize
from models_CIFAR.resnet import ResNet


def _resnet_cifar(depth: int, bitW: int = 1, num_classes: int = 10) -> nn.Module:
    """A CIFAR ResNet for images (B, 3, 32, 32); bitW: bits per weight where `quantized_type` is a name. See metaquantize."""
    return metaquantize(ResNet(depth, num_classes), bitW=bitW)


resnet20_cifar = partial(_resnet_cifar, 20)
resnet32_cifar = partial(_resnet_cifar, 32)
resnet44_cifar = partial(_resnet_cifar, 44)
resnet56_cifar = partial(_resnet_cifar, 56)
resnet110_cifar = partial(_resnet_cifar, 110)
