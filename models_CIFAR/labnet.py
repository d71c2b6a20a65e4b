"""LABNet: (2 x 128C3) - MP2 - (2 x 256C3) - MP2 - (2 x 512C3) - MP2 - (2 x 1024FC) - classifier.

The net of MetaQuant's comparison with LAB on CIFAR-10 (Table 4), which is that of Hou, Yao, Kwok, "Loss-aware Binarization of
Deep Networks", ICLR 2017. Every layer but the classifier is followed by batch normalisation and ReLU.
"""

from torch import nn

from models_CIFAR.initialise import require_classes
from models_CIFAR.vgg import FEATURES, add_convolutions, initialise_hidden

HIDDEN = 1024


class LABNet(nn.Sequential):
    """Images (B, 3, 32, 32) -> logits (B, num_classes). Raises ValueError for fewer than two classes."""

    def __init__(self, num_classes: int = 10):
        super().__init__()
        require_classes(num_classes)
        add_convolutions(self)
        for number, in_features in ((1, FEATURES), (2, HIDDEN)):
            self.add_module(f"fc{number}", nn.Linear(in_features, HIDDEN, bias=False))
            self.add_module(f"fc_bn{number}", nn.BatchNorm1d(HIDDEN))
            self.add_module(f"fc_relu{number}", nn.ReLU(inplace=True))
        self.add_module("fc3", nn.Linear(HIDDEN, num_classes))
        initialise_hidden(self)
