"""Nets that do what ResNets do not: every type of layer, attention, shared weights, a module called twice."""

import torch
from torch import nn


class Twice(nn.Module):
    """Calls its convolution twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 10)

    def forward(self, x):
        return self.fc(self.conv(self.conv(x).relu()).mean(dim=(2, 3)))


class Attends(nn.Module):
    """nn.MultiheadAttention over the pixels; kdim: of the keys, which then have a projection of their own."""

    def __init__(self, kdim=None):
        super().__init__()
        self.embed, self.fc = nn.Linear(3, 8), nn.Linear(8, 10)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, kdim=kdim)

    def forward(self, x):
        pixels = x.flatten(2).transpose(1, 2)
        embedded = self.embed(pixels)
        keys = embedded if self.attention._qkv_same_embed_dim else pixels
        return self.fc(self.attention(embedded, keys, embedded, need_weights=False)[0].mean(dim=1))


class Shares(nn.Module):
    """Two linear layers with one weight, and an embedding that has it, too."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.fc = nn.Linear(3, 3), nn.Linear(3, 3, bias=False), nn.Linear(3, 10)
        self.table = nn.Embedding(3, 3)
        self.second.weight = self.table.weight = self.first.weight

    def forward(self, x):
        x = self.second(self.first(x.mean(dim=(2, 3))).relu())
        return self.fc(x + self.table(torch.tensor(1)))


class Layers(nn.Module):
    """A layer of every type, one after the other, on images (B, 3, 8, 8)."""

    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.c3 = nn.Conv1d(3, 4, 3), nn.Conv2d(1, 4, 3, groups=1), nn.Conv3d(1, 4, (2, 3, 1))
        self.t1, self.t2 = nn.ConvTranspose1d(4, 6, 2, groups=2), nn.ConvTranspose2d(4, 3, 3, bias=False)
        self.t3, self.fc = nn.ConvTranspose3d(4, 2, 2), nn.Linear(15, 10)

    def forward(self, x):
        one = self.t1(self.c1(x.flatten(2)))
        two = self.t2(self.c2(x[:, :1]))
        three = self.t3(self.c3(x[:, None]))
        pooled = [y.flatten(2).mean(2) for y in (one, two, three)]
        return self.fc(torch.cat([*pooled, *(y.flatten(2).amax(2)[:, :2] for y in (one, two))], dim=1))


NETS = {
    "twice": Twice,
    "attention": Attends,
    "attention, three projections": lambda: Attends(kdim=3),
    "shared": Shares,
    "layers": Layers,
    "one layer": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 10)),
}
