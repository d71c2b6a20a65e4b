"""Quantized runs of one iteration, to be exported."""

import torch
from resumed import only_run
from torch import nn

from main import main


class Odd(nn.Module):
    """A transposed convolution in groups, a weight that two layers share, a layer with two names.

    (B, 3, 32, 32) -> (B, num_classes).
    """

    def __init__(self, num_classes):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 8, stride=8), nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, 6, 2, groups=2)
        self.first, self.second = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        self.second.weight = self.first.weight
        self.inner = self.again = nn.Linear(6, 6)
        self.fc = nn.Linear(6, num_classes)

    def forward(self, images):
        x = self.up(self.bn(self.conv(images))).mean(dim=(2, 3))
        return self.fc(self.again(self.inner(self.second(self.first(x).relu()).relu()).relu()).relu())


class Turned(nn.Module):
    """Layers of images of five axes, then linear layers of inputs that are not contiguous."""

    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv3d(1, 8, (3, 4, 4), stride=(1, 4, 4))
        self.channels, self.places, self.fc = nn.Linear(8, 8), nn.Linear(64, 64), nn.Linear(8, num_classes)
        self.register_buffer("running_shift", torch.zeros(1, 8, 1, 1, 1))

    def forward(self, images):
        x = (self.conv(images[:, None]) + self.running_shift).flatten(2)
        x = self.channels(x.transpose(1, 2)).relu()
        return self.fc((x + self.places(x.transpose(1, 2)).transpose(1, 2)).mean(1))


class Lazy(nn.Sequential):
    """Whose layers are made by the first forward."""

    def __init__(self, num_classes):
        super().__init__(nn.LazyConv2d(4, 8, stride=8), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(num_classes))


class PerRow:
    """Five values for each row of a matrix, of which one is a negative zero, and for each first index of other weights."""

    bits = 3

    def preprocess(self, W, layout):
        return W

    def quantize(self, W_tilde, W, layout):
        parts = []
        for part in layout.parts(W_tilde.detach()):
            rows = part.view(2, -1)
            scale = rows.abs().amax(dim=1, keepdim=True) / 2
            parts.append((scale * (rows / scale).round()).flatten())
        return W_tilde + (torch.cat(parts) - W_tilde).detach()

    def calibration(self, W, layout):
        return torch.ones_like(W)


class Runs:
    """Runs by their flags, each trained once."""

    def __init__(self, folder, data):
        self.folder, self.data, self.made = folder, data, {}

    def get(self, *flags, model="ResNet8"):
        if (model, *flags) not in self.made:
            root = self.folder / str(len(self.made))
            command = ["train", "-m", model, "-d", self.data, "-bs", "8", "-n", "1", "-lr", "0.05", "-meta", "STE"]
            assert main([*command, "--pretrained", "none", "--results-root", str(root), *flags]) == 0
            self.made[model, *flags] = only_run(root)
        return self.made[model, *flags]
