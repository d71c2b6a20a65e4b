"""Data sets of 32x32 colour images, and the loaders of their batches by name.

CIFAR10 and CIFAR100 come through torchvision.datasets; Digits is scikit-learn's bundled set; NPZ:path is your own.
Adding a data set is one function (split, root) -> ImageSet here and one line in utils/choices.py.
"""

import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils import default_data_root
from utils.batches import SIZE, ImageSet, Loader
from utils.choices import DATASETS, LOADERS, RESIDENT, npz_path
from utils.errors import BadInput, BadPart, failures_of
from utils.files.look import look_at
from utils.npz import SPLITS, read_npz


def cifar10(split: str, root: Path) -> ImageSet:
    """CIFAR-10 through torchvision, with the published normalisation."""
    from torchvision.datasets import CIFAR10

    return _cifar(CIFAR10, split, root, 10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


def cifar100(split: str, root: Path) -> ImageSet:
    """CIFAR-100 through torchvision, with the published normalisation."""
    from torchvision.datasets import CIFAR100

    return _cifar(CIFAR100, split, root, 100, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def _cifar(cls: type, split: str, root: Path, num_classes: int, mean: tuple, std: tuple) -> ImageSet:
    train = split == "train"
    try:
        data = cls(root, train=train, download=False)  # checks every file's MD5
    except RuntimeError:
        problem = _download(cls, root)
        try:
            data = cls(root, train=train, download=False)  # another process may have brought it in the meantime
        except RuntimeError as error:
            raise BadInput(problem or f"--data-root {root}: {error}") from None
    except OSError as error:
        raise BadInput(f"--data-root {root}: {error}") from None
    return ImageSet(torch.from_numpy(data.data), torch.tensor(data.targets), num_classes, mean, std)


def _download(cls: type, root: Path) -> str | None:
    """Downloads into a temporary folder and moves the finished set in, so that a broken download leaves no half of it.

    Returns what went wrong, or None.
    """
    target = root / cls.base_folder
    advice = f"unpack {cls.filename} into {root}, so that {target} exists"
    if all(os.path.isfile(root / name) for name, _ in (*cls.train_list, *cls.test_list)):
        return f"--data-root {root}: this is {target.name} itself; name the folder that it is in, {root.resolve().parent}"
    if look_at(target, f"--data-root {root}"):
        return f"--data-root {root}: {target} fails its MD5 check; move it away, and download again or {advice}"
    nearest = next(folder for folder in (root, *root.absolute().parents) if os.path.isdir(folder))
    try:
        with tempfile.TemporaryDirectory(dir=nearest, prefix=".download-") as folder:
            cls(folder, download=True)
            root.mkdir(parents=True, exist_ok=True)
            (Path(folder) / cls.base_folder).rename(target)
    except (RuntimeError, URLError, OSError) as error:
        return f"--data-root {root}: {cls.__name__} is not there and could not be downloaded ({error}); {advice}"
    return None


def digits(split: str, root: Path) -> ImageSet:
    """1,797 handwritten digits, 8x8 greys of 0-16, resized to 32x32 in three channels; 1,437 to train, 360 to test.

    The split is fixed and stratified. No horizontal flips: a mirrored digit is no digit.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    train, test = train_test_split(np.arange(len(bunch.target)), test_size=360, random_state=0, stratify=bunch.target)
    chosen = train if split == "train" else test
    greys = torch.from_numpy(bunch.images[chosen]).float().unsqueeze(1) * (255 / 16)
    images = F.interpolate(greys, size=(SIZE, SIZE), mode="bilinear", align_corners=False).round().to(torch.uint8)
    images = images.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous()
    targets = torch.from_numpy(bunch.target[chosen]).long()
    return ImageSet(images, targets, 10, (0.5,) * 3, (0.5,) * 3, flip=False)


def load_images(dataset_name: str, split: str, data_root: str | os.PathLike | None = None) -> ImageSet:
    """One split ("train" or "test") of a registered data set or of NPZ:path.

    data_root: where CIFAR lies or is downloaded to; None: METAQUANT_DATA or ./data.
    Raises BadInput for an unknown name, a set that is absent and cannot be downloaded, or an NPZ file of the wrong form; BadPart
    where a function of one's own returns something else than an ImageSet as that is described.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be train or test, not {split!r}")
    if path := npz_path(dataset_name):
        return read_npz(path, split)
    if dataset_name not in DATASETS:
        raise BadInput(f"--dataset {dataset_name}: choose from {', '.join(sorted(DATASETS))} or NPZ:path")
    with failures_of(f"--dataset {dataset_name}: it cannot be read"):
        image_set = DATASETS.load(dataset_name)(split, Path(data_root or default_data_root()))
    if fault := _fault_of(image_set):
        raise BadPart(f"--dataset {dataset_name}: the {split} set must be an ImageSet (utils/batches.py) with {fault}")
    return image_set


def _fault_of(image_set: Any) -> str | None:
    """What an ImageSet must have and this one has not; None: nothing."""
    if not isinstance(image_set, ImageSet):
        return f"images, targets, num_classes, mean and std, not {type(image_set).__name__}"
    images, targets, classes = image_set.images, image_set.targets, image_set.num_classes
    if not (isinstance(images, Tensor) and images.dtype == torch.uint8 and images.shape[1:] == (SIZE, SIZE, 3) and len(images)):
        return f"images as a uint8 tensor (N, {SIZE}, {SIZE}, 3), not {_form(images)}"
    if not (isinstance(targets, Tensor) and targets.dtype == torch.int64 and targets.shape == images.shape[:1]):
        return f"targets as an int64 tensor ({len(images)},), not {_form(targets)}"
    if type(classes) is not int or not 0 <= int(targets.min()) <= int(targets.max()) < classes:
        return f"targets from 0 to num_classes - 1, not {int(targets.min())} to {int(targets.max())} of {classes}"
    numbers = np.array([image_set.mean, image_set.std], dtype=float)
    if numbers.shape != (2, 3) or not np.isfinite(numbers).all() or numbers[1].min() <= 0:
        return f"three finite means and three positive deviations, not {image_set.mean} and {image_set.std}"
    return None


def difference(one: Any, other: Any) -> tuple[str, str] | None:
    """The first of num_classes, mean and std in which two ImageSets, or what has these too, differ: both values in words.

    Means and deviations may differ by rounding: another machine adds in another order.
    """
    for name in ("num_classes", "mean", "std"):
        values = [np.asarray(getattr(side, name), dtype=float) for side in (one, other)]
        if not np.allclose(*values, rtol=1e-6, atol=0):
            here, there = (f"{name} {' '.join(f'{number:.9g}' for number in value.ravel())}" for value in values)
            return here, there
    return None


def _form(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, (Tensor, np.ndarray)) else type(value).__name__


def hold_out(image_set: ImageSet, number: int, seed: int) -> tuple[Tensor, Tensor]:
    """The indices of the images to train on, and of `number` images to validate on, both ascending.

    Each class has its share in both; the images depend on `seed` alone. Raises BadInput where a side would lack a class.
    """
    from sklearn.model_selection import train_test_split

    total, classes = len(image_set.targets), image_set.num_classes
    if not classes <= number <= total - classes:
        allowed = f"from {classes} to {total - classes} of the {total} training images"
        raise BadInput(f"--validation {number}: must be {allowed}, so that the {classes} classes are in both parts")
    if torch.bincount(image_set.targets, minlength=classes).min() < 2:
        raise BadInput(f"--validation {number}: each class needs at least two training images, one for each part")
    random = np.random.RandomState(np.random.MT19937(seed))
    parts = train_test_split(np.arange(total), test_size=number, random_state=random, stratify=image_set.targets.numpy())
    chosen, held_out = (torch.from_numpy(np.sort(part)) for part in parts)
    for part, name in ((chosen, "training images that are left"), (held_out, "validation images")):
        counts = torch.bincount(image_set.targets[part], minlength=classes)
        if not counts.all():
            missing = int(counts.argmin())
            raise BadInput(f"--validation {number}: the {name} would lack class {missing}, which is too rare for this number")
    return chosen, held_out


def get_dataloader(
    dataset_name: str,
    split: str,
    batch_size: int,
    *,
    data_root: str | os.PathLike | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    loader: str = RESIDENT,
    workers: int = 0,
    drop_last: bool = False,
) -> Loader:
    """Batches (images, targets) of one split on the device; "train": shuffled and augmented.

    drop_last: leave out the last batch of an epoch where it is smaller than the others. The batches depend on `seed` and the
    epoch, not on the device nor on `workers`, the processes that prepare them for the loader "torchvision" (0: this one).
    Raises BadInput as load_images does, and where drop_last leaves no batch; ValueError for an unknown loader.
    """
    if loader not in LOADERS:
        raise ValueError(f"loader must be one of {', '.join(LOADERS)}, not {loader!r}")
    image_set = load_images(dataset_name, split, data_root)
    options = {"seed": seed, "device": device, "drop_last": drop_last}
    return make_loader(loader, image_set, split, batch_size, workers=workers, **options)


def make_loader(
    name: str, image_set: ImageSet, split: str, batch_size: int, *, workers: int = 0, drop_last: bool = False, **options: Any
) -> Loader:
    """The loader of this name for a set's images; split: "train" is shuffled and augmented. options: as Loader's.

    Raises BadInput where drop_last leaves no batch.
    """
    count = len(image_set.images) if options.get("chosen") is None else len(options["chosen"])
    if drop_last and batch_size > count:
        raise BadInput(f"--drop-last: {count} training images are fewer than one batch of {batch_size}")
    if name == "torchvision":
        options["workers"] = workers
    return LOADERS.load(name)(image_set, split, batch_size, drop_last=drop_last, **options)
