"""Exported files by their ending, and the net that one of them is of."""

from pathlib import Path
from typing import Protocol

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from meta_utils.metaquantize import metaquantize
from utils.batches import Loader
from utils.choices import FLOAT32, MODELS
from utils.dataset import difference
from utils.errors import BadInput, shortened
from utils.run.build import build_net
from utils.run.exported.about import About
from utils.run.exported.packed_file import PackedFile
from utils.run.nets import is_built_lazily
from utils.run.paths import PACKED


class ExportedFile(Protocol):
    """What both kinds of files have in common."""

    about: About

    def check(self, net: nn.Module) -> None:
        """Raises ValueError, naming the first, where the file's tensors are not those of a metaquantized net."""

    def load_into(self, net: nn.Module) -> None:
        """Makes a metaquantized net compute what the file holds: its weights are W_hat. Raises ValueError as `check` does."""


def read_exported(path: Path) -> ExportedFile:
    """The content of a file with one of the endings. Raises BadInput, naming it, for one that is damaged or no export."""
    if path.suffix == PACKED:
        return PackedFile.read(path)
    from utils.run.exported.onnx_file import OnnxFile  # which need not be installed

    return OnnxFile.read(path)


def build_exported(file: ExportedFile, path: Path, loader: Loader, device: torch.device, precision: str = FLOAT32) -> nn.Module:
    """The net of an exported file, for the loader's images, on the device; its weights are W_hat. precision: of its products.

    The file's tensors are compared with the net before memory is taken for it. Raises BadInput where they are of another net, or
    not for the loader's classes, or for images that are normalised otherwise.
    """
    about, classes = file.about, loader.image_set.num_classes
    if about.num_classes != classes:
        raise BadInput(f"{path} is of a net for {about.num_classes} classes, and the data set has {classes}")
    if other := difference(about, loader.image_set):
        raise BadInput(f"{path} is of a net for images that are normalised by {other[0]}, and the data set's by {other[1]}")
    try:
        if (skeleton := _skeleton(about)) is not None:
            file.check(skeleton)
        net = build_net(about.architecture, loader, device, keep=about.keep, precision=precision)
        file.load_into(net)
    except BadInput as error:
        words = str(error)
        raise BadInput(words if words.startswith(str(path)) else f"{path}: {words}") from None
    except ValueError as error:
        keep = f" --keep {shortened(' '.join(about.keep), 100)}" if about.keep else ""
        raise BadInput(f"{path} does not hold the net -m {about.architecture}{keep}: {shortened(str(error), 400)}") from None
    return net


class _NoMemory(TorchFunctionMode):
    """Within it torch.empty, which layers make their parameters by, takes no memory; everything else computes as usual."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        return func(*args, **(kwargs | {"device": "meta"} if func is torch.empty else kwargs))


def _skeleton(about: About) -> nn.Module | None:
    """The metaquantized net without memory for its layers; None for one of the user's own that cannot be made so, or is built
    lazily.
    """
    make = MODELS.load(about.architecture)
    try:
        with _NoMemory():
            net = make(num_classes=about.num_classes)
    except Exception:  # a net may read its own numbers while it is made
        return None
    return None if is_built_lazily(net) else metaquantize(net, about.keep)
