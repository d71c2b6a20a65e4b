"""Data sets of 32x32 colour images, and loaders whose batches are a function of (seed, epoch) alone.

CIFAR10 and CIFAR100 come through torchvision.datasets; Digits is scikit-learn's bundled set; NPZ:path is your own.
Adding a data set is one function (split, root) -> ImageSet and one line in DATASETS.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.miscellaneous import BadInput

SIZE, PADDING = 32, 4
SPLITS = ("train", "test")


@dataclass(frozen=True)
class ImageSet:
    """One split: images (N, 32, 32, 3) uint8, targets (N,) int64; mean and std per channel, of pixels in [0, 1]."""

    images: Tensor
    targets: Tensor
    num_classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    flip: bool = True


def default_data_root() -> str:
    """METAQUANT_DATA, or ./data where it is not set."""
    return os.environ.get("METAQUANT_DATA") or "./data"


def _cifar(cls: type, num_classes: int, mean: tuple, std: tuple) -> Callable[[str, Path], ImageSet]:
    def load(split: str, root: Path) -> ImageSet:
        train = split == "train"
        try:
            data = cls(root, train=train, download=False)  # checks every file's MD5
        except RuntimeError:
            _download(cls, root)
            data = cls(root, train=train, download=False)
        return ImageSet(torch.from_numpy(data.data), torch.tensor(data.targets), num_classes, mean, std)

    return load


def _download(cls: type, root: Path) -> None:
    """Downloads into a temporary folder and moves the finished set in, so that a broken download leaves nothing."""
    target = root / cls.base_folder
    advice = f"unpack {cls.filename} into {root}, so that {target} exists"
    if target.exists():
        raise BadInput(f"--data-root {root}: {target} fails its MD5 check; move it away, and download again or {advice}")
    nearest = next(folder for folder in root.absolute().parents if folder.is_dir())
    try:
        with tempfile.TemporaryDirectory(dir=nearest, prefix=".download-") as folder:
            cls(folder, download=True)
            root.mkdir(parents=True, exist_ok=True)
            (Path(folder) / cls.base_folder).rename(target)
    except (RuntimeError, URLError, OSError) as error:
        raise BadInput(
            f"--data-root {root}: {cls.__name__} is not there and could not be downloaded ({error}); {advice}"
        ) from None


def _digits(split: str, root: Path) -> ImageSet:
    """1,797 handwritten digits, 8x8 greys of 0-16, resized to 32x32 in three channels; 1,437 to train, 360 to test.

    The split is fixed and stratified. No horizontal flips: a mirrored digit is no digit.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    train, test = train_test_split(np.arange(len(digits.target)), test_size=360, random_state=0, stratify=digits.target)
    chosen = train if split == "train" else test
    greys = torch.from_numpy(digits.images[chosen]).float().unsqueeze(1) * (255 / 16)
    images = F.interpolate(greys, size=(SIZE, SIZE), mode="bilinear", align_corners=False).round().to(torch.uint8)
    images = images.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous()
    targets = torch.from_numpy(digits.target[chosen]).long()
    return ImageSet(images, targets, 10, (0.5,) * 3, (0.5,) * 3, flip=False)


def _npz(path: Path, split: str) -> ImageSet:
    """x_train, y_train, x_test, y_test: uint8 images (N, 32, 32, 3), integer labels (N,) from 0. Raises BadInput otherwise."""
    flag = f"--dataset NPZ:{path}"
    if not path.is_file():
        raise BadInput(f"{flag}: there is no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = sorted({"x_train", "y_train", "x_test", "y_test"} - set(file.files))
            if missing:
                raise BadInput(f"{flag}: lacks {', '.join(missing)} (it needs x_train, y_train, x_test, y_test)")
            arrays = {name: file[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, BadZipFile) as error:
        raise BadInput(f"{flag}: not a readable NPZ file of plain arrays ({error})") from None
    for part in SPLITS:
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.dtype != np.uint8 or x.ndim != 4 or x.shape[1:] != (SIZE, SIZE, 3) or not len(x):
            raise BadInput(f"{flag}: x_{part} must be uint8 of shape (N, 32, 32, 3), not {x.dtype} of shape {x.shape}")
        if not np.issubdtype(y.dtype, np.integer) or y.shape != (len(x),) or y.min() < 0:
            raise BadInput(f"{flag}: y_{part} must be integers from 0, of shape ({len(x)},), not {y.dtype} of shape {y.shape}")
    num_classes = int(max(arrays["y_train"].max(), arrays["y_test"].max())) + 1
    if num_classes < 2:
        raise BadInput(f"{flag}: every label is 0; a classifier needs two classes")
    pixels = arrays["x_train"].reshape(-1, 3) / 255.0
    mean, std = pixels.mean(axis=0), np.maximum(pixels.std(axis=0), 1e-3)
    images, targets = torch.from_numpy(arrays[f"x_{split}"]), torch.from_numpy(arrays[f"y_{split}"].astype(np.int64))
    return ImageSet(images, targets, num_classes, tuple(mean.tolist()), tuple(std.tolist()))


DATASETS: dict[str, Callable[[str, Path], ImageSet]] = {
    "CIFAR10": _cifar(torchvision.datasets.CIFAR10, 10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "CIFAR100": _cifar(torchvision.datasets.CIFAR100, 100, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "Digits": _digits,
}


def load_images(dataset_name: str, split: str, data_root: str | os.PathLike | None = None) -> ImageSet:
    """One split ("train" or "test") of a registered data set or of NPZ:path.

    data_root: where CIFAR lies or is downloaded to; None: METAQUANT_DATA or ./data.
    Raises BadInput for an unknown name, a set that is absent and cannot be downloaded, or an NPZ file of the wrong form.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be train or test, not {split!r}")
    if dataset_name.startswith("NPZ:"):
        return _npz(Path(dataset_name[4:]), split)
    if dataset_name not in DATASETS:
        raise BadInput(f"--dataset {dataset_name}: choose from {', '.join(sorted(DATASETS))} or NPZ:path")
    return DATASETS[dataset_name](split, Path(data_root or default_data_root()))


class Batch(NamedTuple):
    """What a sampler asks of the data set: indices (B,), and the seed of the batch's augmentation (None: as stored)."""

    indices: Tensor
    augmentation_seed: int | None


class BatchSampler(Sampler):
    """The batches of an epoch. `shuffle`: order and augmentation seeds drawn from (seed, epoch) alone.

    Every pass moves on to the next epoch; `epoch` and `skip`, the number of batches that the next pass leaves out, may be set,
    so that a resumed run draws what the whole run would have.
    """

    def __init__(self, size: int, batch_size: int, shuffle: bool, seed: int = 0):
        self.size, self.batch_size, self.shuffle, self.seed = size, batch_size, shuffle, seed
        self.epoch = self.skip = 0

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        if not self.shuffle:
            yield from (Batch(indices, None) for indices in torch.arange(self.size).split(self.batch_size))
            return
        entropy = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(entropy >> np.uint64(1)))
        self.epoch += 1
        order = torch.randperm(self.size, generator=generator)
        seeds = torch.randint(2**62, (len(self),), generator=generator).tolist()
        skip, self.skip = self.skip, 0
        yield from islice(map(Batch, order.split(self.batch_size), seeds), skip, None)


class ImageBatches(Dataset):
    """An ImageSet indexed by Batch: normalised float32 images (B, 3, 32, 32), channels last in memory, and targets (B,)."""

    def __init__(self, image_set: ImageSet):
        self.image_set = image_set
        self.mean, self.std = (255 * torch.tensor(numbers) for numbers in (image_set.mean, image_set.std))

    def __len__(self) -> int:
        return len(self.image_set.images)

    @property
    def num_classes(self) -> int:
        return self.image_set.num_classes

    def __getitem__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        images = self.image_set.images[batch.indices]
        if batch.augmentation_seed is not None:
            generator = torch.Generator().manual_seed(batch.augmentation_seed)
            images = crop_and_flip(images, generator, self.image_set.flip)
        normalised = images.float().sub_(self.mean).div_(self.std)
        return normalised.permute(0, 3, 1, 2), self.image_set.targets[batch.indices]


def crop_and_flip(images: Tensor, generator: torch.Generator, flip: bool = True) -> Tensor:
    """Zero-pads by 4, crops 32x32 at an offset uniform over 9 x 9, mirrors with probability 1/2: (B, 32, 32, 3) -> same."""
    count = len(images)
    padded = F.pad(images, (0, 0, PADDING, PADDING, PADDING, PADDING))
    width = SIZE + 2 * PADDING
    top, left = torch.randint(2 * PADDING + 1, (2, count), generator=generator)
    mirrored = torch.rand(count, generator=generator) < (0.5 if flip else 0.0)
    steps = torch.arange(SIZE)
    columns = left[:, None] + torch.where(mirrored[:, None], SIZE - 1 - steps, steps)
    rows = top[:, None] + steps + width * torch.arange(count)[:, None]
    pixels = (rows[:, :, None] * width + columns[:, None, :]).flatten()
    return padded.view(-1, 3).index_select(0, pixels).view_as(images)


def get_dataloader(
    dataset_name: str,
    split: str,
    batch_size: int,
    *,
    data_root: str | os.PathLike | None = None,
    seed: int = 0,
    workers: int = 0,
) -> DataLoader:
    """Batches (images, targets) of one split; "train": shuffled and augmented, the last batch may be smaller.

    The batches depend on `seed` and the epoch, not on `workers` (processes that prepare them; 0: this one).
    Raises BadInput as load_images does.
    """
    batches = ImageBatches(load_images(dataset_name, split, data_root))
    sampler = BatchSampler(len(batches), batch_size, shuffle=split == "train", seed=seed)
    return DataLoader(
        batches,
        sampler=sampler,
        batch_size=None,
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(0),  # the loader's own draws leave the global generator alone
    )
