"""VGG-small: (2 x 128C3) - MP2 - (2 x 256C3) - MP2 - (2 x 512C3) - MP2 - classifier.

The CIFAR net of the literature on binary networks, a VGG with a single linear layer: "VGG-Small" in Zhang et al., "LQ-Nets",
ECCV 2018, after Cai et al., "HWGQ-Net", CVPR 2017. Activations stay in full precision here.
"""

from torch import nn

from models_CIFAR.initialise import initialise, require_classes

CHANNELS = (128, 128, 256, 256, 512, 512)
FEATURES = CHANNELS[-1] * 4 * 4  # of a 32x32 image, after three poolings


class VGGSmall(nn.Sequential):
    """Images (B, 3, 32, 32) -> logits (B, num_classes). Raises ValueError for fewer than two classes."""

    def __init__(self, num_classes: int = 10):
        super().__init__()
        require_classes(num_classes)
        add_convolutions(self)
        self.add_module("fc", nn.Linear(FEATURES, num_classes))
        initialise_hidden(self)


def add_convolutions(net: nn.Sequential) -> None:
    """Adds conv1 to conv6 (3x3), each with batch normalisation and ReLU: (B, 3, 32, 32) -> (B, FEATURES).

    A 2x2 max pooling follows every second one.
    """
    for number, (in_channels, channels) in enumerate(zip((3, *CHANNELS), CHANNELS, strict=False), 1):
        net.add_module(f"conv{number}", nn.Conv2d(in_channels, channels, 3, padding=1, bias=False))
        net.add_module(f"bn{number}", nn.BatchNorm2d(channels))
        net.add_module(f"relu{number}", nn.ReLU(inplace=True))
        if number % 2 == 0:
            net.add_module(f"pool{number}", nn.MaxPool2d(2))
    net.add_module("flatten", nn.Flatten())


def initialise_hidden(net: nn.Sequential) -> None:
    """As `initialise`, of every layer but the classifier, which has torch's initialisation."""
    *hidden, _ = [layer for layer in net if isinstance(layer, (nn.Conv2d, nn.Linear))]
    initialise(hidden)
