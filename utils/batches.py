"""Batches of 32x32 images whose order and augmentation are a function of (seed, epoch) alone.

`ResidentLoader` keeps the whole set on the device and cuts, mirrors and normalises a batch there in a few operations.
`TorchvisionLoader` is torch's DataLoader with torchvision's transforms. Both draw from the same distribution.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import record_function
from torch.utils.data import DataLoader, Dataset

from utils.files.text import counted

SIZE, PADDING = 32, 4


@dataclass(frozen=True)
class ImageSet:
    """One split: images (N, 32, 32, 3) uint8, targets (N,) int64; mean and std per channel, of pixels in [0, 1]."""

    images: Tensor
    targets: Tensor
    num_classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    flip: bool = True


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """The generator that everything random in an epoch's batches is drawn from."""
    entropy = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(entropy >> np.uint64(1)))


class Loader:
    """An epoch's batches (images (B, 3, 32, 32) float32, targets (B,)) on a device; "train" is shuffled and augmented.

    `begin` starts an epoch, in the middle of it for a resumed run, and says how large its batches are; `take` gives the next one.
    Iterating over the loader goes through one epoch after the other, the first one first. drop_last: an epoch has no smaller
    batch at its end. chosen: the indices of the images that are used, all where None. Raises ValueError where there is no batch.
    capturable: whether a CUDA graph can hold `take`, because it neither synchronises nor has shapes that depend on data.
    """

    capturable = False

    def __init__(
        self,
        image_set: ImageSet,
        split: str,
        batch_size: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        drop_last: bool = False,
        chosen: Tensor | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.image_set, self.batch_size, self.seed = image_set, batch_size, seed
        self.chosen = torch.arange(len(image_set.images)) if chosen is None else chosen
        self.training = split == "train"
        self.device = torch.device(device)
        self._passes = count()  # of `for images, targets in loader`, which names no epoch
        full, rest = divmod(len(self.chosen), batch_size)
        self._sizes = [batch_size] * full + [rest] * (rest > 0 and not drop_last)
        if not self._sizes:
            raise ValueError(
                f"{counted(len(self.chosen), 'image')} {'makes' if len(self.chosen) == 1 else 'make'} no batch of {batch_size}"
            )

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def smallest_batch(self) -> int:
        """The number of images in an epoch's last batch, which may be smaller than the others."""
        return self._sizes[-1]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for size in self.begin(next(self._passes)):
            yield self.take(size)

    def begin(self, epoch: int, skip: int = 0) -> list[int]:
        """Starts an epoch (from 0) without its first `skip` batches; returns the sizes of the batches to take."""
        self._start(epoch, skip)
        return self._sizes[skip:]

    def take(self, size: int) -> tuple[Tensor, Tensor]:
        """The next batch, of the size that `begin` said."""
        raise NotImplementedError(f"{type(self).__name__} does not define take()")

    def _start(self, epoch: int, skip: int) -> None:
        raise NotImplementedError(f"{type(self).__name__} does not define _start()")


class Crops(NamedTuple):
    """What is drawn for each image: the crop's offset, from 0 to 8, and whether it is mirrored; (N,) each."""

    top: Tensor
    left: Tensor
    mirrored: Tensor


def draw_crops(number: int, generator: torch.Generator, flip: bool = True) -> Crops:
    """Offsets uniform over 9 x 9, mirrored with probability 1/2 (never without `flip`)."""
    top, left = torch.randint(2 * PADDING + 1, (2, number), generator=generator)
    return Crops(top, left, torch.rand(number, generator=generator) < (0.5 if flip else 0.0))


def crop_and_flip(images: Tensor, crops: Crops) -> Tensor:
    """Pads by 4 zeros, crops 32x32 at each image's offset and mirrors: (B, 32, 32, 3) -> the same."""
    number, width = len(images), SIZE + 2 * PADDING
    padded = F.pad(images, (0, 0, PADDING, PADDING, PADDING, PADDING))
    steps = torch.arange(SIZE, device=images.device)
    columns = crops.left[:, None] + torch.where(crops.mirrored[:, None], SIZE - 1 - steps, steps)
    rows = crops.top[:, None] + steps + width * torch.arange(number, device=images.device)[:, None]
    pixels = (rows[:, :, None] * width + columns[:, None, :]).flatten()
    return padded.view(-1, 3).index_select(0, pixels).view_as(images)


class ResidentLoader(Loader):
    """The whole set on the device as uint8. `take` neither synchronises nor has shapes that depend on data: the draws of an epoch
    lie on the device, and so does the place in it, so that a captured `take` gives the next batch whenever it is replayed.
    """

    capturable = True

    def __init__(self, image_set: ImageSet, split: str, batch_size: int, **options: Any):
        super().__init__(image_set, split, batch_size, **options)
        self._images, self._targets = image_set.images.to(self.device), image_set.targets.to(self.device)
        self._mean, self._std = (255 * torch.tensor(numbers, device=self.device) for numbers in (image_set.mean, image_set.std))
        self._order = self.chosen.to(self.device, copy=True)
        self._crops = Crops(*(torch.zeros_like(self._order) for _ in "xy"), torch.zeros_like(self._order, dtype=torch.bool))
        self._place = torch.zeros((), dtype=torch.int64, device=self.device)
        self._steps = torch.arange(min(batch_size, len(self.chosen)), device=self.device)

    def _start(self, epoch: int, skip: int) -> None:
        self._place.fill_(skip * self.batch_size)
        if not self.training:
            return
        generator = epoch_generator(self.seed, epoch)
        self._order.copy_(self.chosen[torch.randperm(len(self._order), generator=generator)])
        for ours, drawn in zip(self._crops, draw_crops(len(self._order), generator, self.image_set.flip), strict=True):
            ours.copy_(drawn)

    @record_function("data")
    def take(self, size: int) -> tuple[Tensor, Tensor]:
        """The next `size` images, channels last in memory, and their targets."""
        places = self._place + self._steps[:size]
        self._place += size
        chosen = self._order.index_select(0, places)
        images = self._images.index_select(0, chosen)
        if self.training:
            images = crop_and_flip(images, Crops(*(drawn.index_select(0, places) for drawn in self._crops)))
        normalised = images.float().sub_(self._mean).div_(self._std)
        return normalised.permute(0, 3, 1, 2), self._targets.index_select(0, chosen)


class _Transformed(Dataset):
    """Images by (index, seed), through torchvision's transforms; each seed makes its image's draws, in whatever process."""

    def __init__(self, image_set: ImageSet, training: bool):
        from torchvision import transforms

        self.image_set = image_set
        augment = [transforms.RandomCrop(SIZE, padding=PADDING)] + [transforms.RandomHorizontalFlip()] * image_set.flip
        normalise = [transforms.ToTensor(), transforms.Normalize(image_set.mean, image_set.std)]
        self.transform = transforms.Compose((augment if training else []) + normalise)

    def __getitem__(self, index_and_seed: tuple[int, int]) -> tuple[Tensor, Tensor]:
        from PIL import Image

        index, seed = index_and_seed
        image = Image.fromarray(self.image_set.images[index].numpy())
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would set the GPU's generator, too
            return self.transform(image), self.image_set.targets[index]


class TorchvisionLoader(Loader):
    """torch's DataLoader with torchvision's transforms on one image at a time, prepared by `workers` processes (0: this one)."""

    def __init__(self, image_set: ImageSet, split: str, batch_size: int, workers: int = 0, **options: Any):
        super().__init__(image_set, split, batch_size, **options)
        self._pairs: list[tuple[int, int]] = []  # (index, seed) of the epoch's images
        self._loader = DataLoader(
            _Transformed(image_set, self.training),
            batch_size=batch_size,
            sampler=self._pairs,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator().manual_seed(0),  # the loader's own draws leave the global generator alone
        )

    def _start(self, epoch: int, skip: int) -> None:
        order = seeds = self.chosen
        if self.training:
            number, generator = len(self.chosen), epoch_generator(self.seed, epoch)
            order = self.chosen[torch.randperm(number, generator=generator)]
            seeds = torch.randint(2**62, (number,), generator=generator)
        pairs = list(zip(order.tolist(), seeds.tolist(), strict=True))
        self._pairs[:] = pairs[skip * self.batch_size : sum(self._sizes)]
        self._batches = iter(self._loader)

    @record_function("data")
    def take(self, size: int) -> tuple[Tensor, Tensor]:
        images, targets = next(self._batches)
        return images.to(self.device, memory_format=torch.channels_last, non_blocking=True), targets.to(self.device)
