"""NPZ files with a data set of one's own: x_train, y_train, x_test, y_test.

The zip directory and the arrays' headers are checked before anything is unpacked.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np
import torch

from utils.batches import SIZE, ImageSet
from utils.errors import BadInput, first_line, shortened
from utils.files.look import is_file

SPLITS = ("train", "test")
ARRAYS = tuple(f"{letter}_{split}" for letter in "xy" for split in SPLITS)
EXPANSION, SMALL = 100, 64 << 20  # a member of more than SMALL bytes takes at least the EXPANSION-th part of them in the file
ROWS = 1 << 16  # pixels at a time, for mean and standard deviation
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}  # by version of the format


class Header(NamedTuple):
    """What an array's header says, and how many bytes it takes."""

    shape: tuple[int, ...]
    dtype: np.dtype
    size: int

    def __str__(self) -> str:
        return f"{self.dtype} of shape {self.shape}"


def read_npz(path: Path, split: str) -> ImageSet:
    """A split of an NPZ file: uint8 images (N, 32, 32, 3), integer labels (N,); mean and std are the training images'.

    Raises BadInput for another form, for a file that is damaged or unpacks to far more than it takes, and for labels that are
    not those of the training images, 0 to the number of classes - 1.
    """
    flag = f"--dataset NPZ:{path}"
    if not is_file(path, flag):
        raise BadInput(f"{flag}: there is no such file")
    try:
        with ZipFile(path) as file:
            return _image_set(file, path.stat().st_size, split)
    except BadInput as error:
        raise BadInput(f"{flag}: {error}") from None
    except Exception as error:  # zipfile and numpy raise whatever foreign bytes lead to
        why = shortened(first_line(error))
        raise BadInput(f"{flag}: not a readable NPZ file of plain arrays ({why})") from None


def _image_set(file: ZipFile, size: int, split: str) -> ImageSet:
    members = _members(file, size)
    headers = {name: _header(file, info, name) for name, info in members.items()}
    _check_form(headers)
    for name, info in members.items():
        _check_size(headers[name], info.file_size, name)
    labels = {part: _read(file, members[f"y_{part}"]) for part in SPLITS}
    num_classes = _count_classes(labels["train"], labels["test"])
    images = _read(file, members["x_train"])
    mean, std = mean_and_std(images)
    if split == "test":
        del images  # before the others are read
        images = _read(file, members["x_test"])
    targets = torch.from_numpy(labels[split].astype(np.int64))
    return ImageSet(torch.from_numpy(images), targets, num_classes, tuple(mean.tolist()), tuple(std.tolist()))


def _members(file: ZipFile, size: int) -> dict[str, ZipInfo]:
    """The members of the four arrays by name. size: the file's."""
    members: dict[str, ZipInfo] = {}
    for info in file.infolist():
        name = info.filename.removesuffix(".npy")
        if name in members:
            raise BadInput(f"holds {name} twice")
        if name in ARRAYS:
            members[name] = info
    if missing := sorted(set(ARRAYS) - set(members)):
        raise BadInput(f"lacks {', '.join(missing)} (it needs {', '.join(ARRAYS)})")
    for name, info in members.items():
        if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED) or info.flag_bits & 1:
            raise BadInput(f"{name} is packed in another way than by numpy.savez or numpy.savez_compressed")
        if info.file_size > max(SMALL, EXPANSION * info.compress_size):
            sizes = f"{info.compress_size} bytes would become {info.file_size}"
            raise BadInput(f"{name} is not unpacked: {sizes}, more than {EXPANSION} times as many")
    if sum(info.compress_size for info in members.values()) > size:
        raise BadInput("its members overlap")
    return members


def _header(file: ZipFile, info: ZipInfo, name: str) -> Header:
    with file.open(info) as member:
        read = HEADERS.get(np.lib.format.read_magic(member))
        if read is None:
            raise BadInput(f"{name} has a header of another version than 1.0 and 2.0")
        shape, _, dtype = read(member)
        return Header(shape, dtype, member.tell())


def _check_form(headers: dict[str, Header]) -> None:
    for part in SPLITS:
        x, y = headers[f"x_{part}"], headers[f"y_{part}"]
        for name, header in ((f"x_{part}", x), (f"y_{part}", y)):
            if header.dtype.hasobject:
                raise BadInput(f"not a readable NPZ file of plain arrays: {name} holds Python objects")
        if x.dtype != np.uint8 or x.shape[1:] != (SIZE, SIZE, 3) or x.shape[0] < 1:
            raise BadInput(f"x_{part} must be uint8 of shape (N, {SIZE}, {SIZE}, 3), not {x}")
        if y.dtype.kind not in "iu" or y.shape != x.shape[:1]:
            raise BadInput(f"y_{part} must be integers from 0, of shape ({x.shape[0]},), not {y}")


def _check_size(header: Header, size: int, name: str) -> None:
    """size: the member's, unpacked."""
    needed = header.dtype.itemsize * int(np.prod(header.shape, dtype=object))
    if needed != size - header.size:
        raise BadInput(f"{name} is {header} by its header, {needed} bytes, but has {size - header.size}")


def _read(file: ZipFile, info: ZipInfo) -> np.ndarray:
    """The whole member, whose checksum zipfile compares, in C order."""
    with file.open(info) as member:
        return np.ascontiguousarray(np.lib.format.read_array(member, allow_pickle=False))


def _count_classes(train: np.ndarray, test: np.ndarray) -> int:
    """The number of classes. Raises BadInput where the training labels are not 0, 1, ..., or a test label is none of them."""
    for part, labels in (("train", train), ("test", test)):
        if labels.min() < 0:
            raise BadInput(f"y_{part} must be integers from 0, and its smallest is {labels.min()}")
    largest = max(int(train.max()), int(test.max()))
    if largest == 0:
        raise BadInput("every label is 0; a classifier needs two classes")
    advice = "labels are 0, 1, 2, ... without gaps, and each has a training image"
    if largest >= len(train):
        raise BadInput(f"the largest label is {largest}, too large for {len(train)} training images: {advice}")
    unseen = np.flatnonzero(np.bincount(train.astype(np.int64), minlength=largest + 1) == 0)
    if len(unseen):
        shown = ", ".join(map(str, unseen[:5])) + (", ..." if len(unseen) > 5 else "")
        raise BadInput(f"no training image has label {shown} ({len(unseen)} of the labels 0 to {largest}): {advice}")
    return largest + 1


def mean_and_std(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per channel, of pixels in [0, 1]: uint8 (N, H, W, C) -> (C,) each, float64; std is at least 1e-3.

    The same bits as NumPy's mean and std of all pixels as float64, which would take 16 bytes per pixel and channel.
    """
    pixels = images.reshape(-1, images.shape[-1])
    mean = _sum(pixels, lambda values: values) / len(pixels)
    variance = _sum(pixels, lambda values: np.square(values - mean)) / len(pixels)
    return mean, np.maximum(np.sqrt(variance), 1e-3)


def _sum(pixels: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The sum of a function of the pixels / 255, added row by row, as NumPy does, in pieces."""
    total = np.empty((0, pixels.shape[1]))
    for start in range(0, len(pixels), ROWS):
        values = function(pixels[start : start + ROWS] / 255.0)
        total = np.concatenate([total, values]).sum(axis=0, keepdims=True)
    return total[0]
