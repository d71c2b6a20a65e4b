"""Data sets: what comes out, its augmentation's distribution, and what is refused."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from utils.batches import ImageSet
from utils.choices import DATASETS
from utils.dataset import _cifar, get_dataloader, load_images
from utils.errors import BadInput, BadPart
from utils.run.identity import data_digest

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def arrays(**changes):
    random = np.random.default_rng(0)
    good = {
        "x_train": random.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8),
        "y_train": np.arange(6) % 3,
        "x_test": random.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8),
        "y_test": np.arange(4) % 3,
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def test_digits_are_a_fixed_stratified_split():
    train, test = (load_images("Digits", split) for split in ("train", "test"))
    assert train.images.shape == (1437, 32, 32, 3)
    assert test.images.shape == (360, 32, 32, 3)
    assert train.images.dtype == torch.uint8
    assert (train.images[..., 0] == train.images[..., 2]).all()
    assert train.images.max() == 255
    assert train.num_classes == 10
    assert not train.flip
    assert 35 <= np.bincount(test.targets).min() <= np.bincount(test.targets).max() <= 37
    assert torch.equal(load_images("Digits", "test").images, test.images)
    seen = {image.numpy().tobytes() for image in train.images}
    assert sum(image.numpy().tobytes() in seen for image in test.images) == 0


def test_npz(tmp_path):
    data = arrays()
    np.savez(tmp_path / "mine.npz", **data)
    name = f"NPZ:{tmp_path / 'mine.npz'}"
    train, test = (load_images(name, split) for split in ("train", "test"))
    assert train.num_classes == test.num_classes == 3
    np.testing.assert_array_equal(train.images, data["x_train"])
    np.testing.assert_array_equal(test.targets, data["y_test"])
    np.testing.assert_allclose(test.mean, data["x_train"].mean((0, 1, 2)) / 255)  # the training set's, for both
    np.testing.assert_allclose(test.std, data["x_train"].std((0, 1, 2)) / 255)
    ((images, targets),) = get_dataloader(name, "test", 4)
    expected = (data["x_test"] / 255 - train.mean) / train.std
    np.testing.assert_allclose(images.permute(0, 2, 3, 1), expected, rtol=1e-5, atol=1e-5)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert targets.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_test": None}, "lacks y_test"),
        (
            {"x_train": np.zeros((6, 28, 28, 3), np.uint8)},
            r"must be uint8 of shape \(N, 32, 32, 3\), not uint8 of shape \(6, 28",
        ),
        ({"x_train": np.zeros((6, 3, 32, 32), np.uint8)}, "x_train must be"),
        ({"x_test": np.zeros((4, 32, 32, 3), np.float32)}, "x_test must be uint8 .* not float32"),
        ({"x_test": np.zeros((0, 32, 32, 3), np.uint8), "y_test": np.zeros(0, int)}, "x_test must be"),
        ({"y_train": np.zeros(5, int)}, r"y_train must be integers from 0, of shape \(6,\)"),
        ({"y_train": np.zeros(6)}, "y_train must be integers .* not float64"),
        ({"y_train": np.arange(6) - 1}, "y_train must be integers from 0"),
        ({"y_train": np.zeros(6, int), "y_test": np.zeros(4, int)}, "every label is 0"),
        ({"x_train": np.array([object()] * 6)}, "not a readable NPZ file of plain arrays"),
    ],
)
def test_npz_of_the_wrong_form_is_refused(changes, words, tmp_path):
    np.savez(tmp_path / "bad.npz", **arrays(**changes))
    with pytest.raises(BadInput, match=words):
        load_images(f"NPZ:{tmp_path / 'bad.npz'}", "train")


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 broken"])
def test_a_damaged_npz_is_refused(content, tmp_path):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(BadInput, match="not a readable NPZ"):
        load_images(f"NPZ:{tmp_path / 'bad.npz'}", "test")


@pytest.mark.usefixtures("no_network")
def test_a_set_that_is_absent_leaves_nothing_behind(tmp_path):
    for name in ("CIFAR10", "CIFAR100"):
        with pytest.raises(BadInput, match="could not be downloaded"):
            load_images(name, "test", tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_cifar_is_named(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"not a batch")
    with pytest.raises(BadInput, match=r"cifar-10-batches-py fails its MD5"):
        load_images("CIFAR10", "train", tmp_path)
    assert (folder / "data_batch_1").read_bytes() == b"not a batch"


def test_unknown_names_are_refused():
    with pytest.raises(BadInput, match="MNIST"):
        load_images("MNIST", "train")
    with pytest.raises(ValueError, match="validation"):
        load_images("Digits", "validation")


@pytest.mark.parametrize(
    ("name", "classes", "mean", "std"), [("CIFAR10", 10, MEAN, STD), ("CIFAR100", 100, (0.5,) * 3, (0.5,) * 3)]
)
def test_cifar(name, classes, mean, std, data_root):
    train, test = (get_dataloader(name, split, 128, data_root=data_root) for split in ("train", "test"))
    assert len(train) == 391
    assert len(train.image_set.images) == 50000
    assert len(test.image_set.images) == 10000
    assert train.image_set.num_classes == classes
    assert (train.image_set.mean, train.image_set.std) == (mean, std)
    images, targets = next(iter(test))
    transform = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
    expected = torch.stack([transform(image.numpy()) for image in test.image_set.images[:128]])
    torch.testing.assert_close(images, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(targets, test.image_set.targets[:128])


class Downloaded:
    """Stands for torchvision's class where there is no network: "downloads" a file, while another process may be done first."""

    base_folder, filename = "set", "set.tar.gz"
    train_list = test_list = (("batch", "its MD5"),)
    in_the_meantime = None

    def __init__(self, root, train=True, download=False):
        target = Path(root) / self.base_folder
        if download:
            target.mkdir()
            (target / "batch").write_text("images")
            if self.in_the_meantime:
                self.in_the_meantime()
        elif not (target / "batch").exists():
            raise RuntimeError("Dataset not found or corrupted.")
        self.data, self.targets = np.zeros((2, 32, 32, 3), np.uint8), [0, 1]


@pytest.mark.parametrize("there", [False, True])
def test_a_download_goes_into_the_root_and_nowhere_else(there, tmp_path):
    root = tmp_path / "root"
    if there:
        root.mkdir()
    images = _cifar(Downloaded, "train", root, 2, MEAN, STD)
    assert len(images.images) == 2
    assert [path.name for path in tmp_path.rglob("*")] == ["root", "set", "batch"]


def test_two_downloads_at_once_both_succeed(tmp_path, monkeypatch):
    def other():
        monkeypatch.setattr(Downloaded, "in_the_meantime", None)
        _cifar(Downloaded, "train", tmp_path, 2, MEAN, STD)

    monkeypatch.setattr(Downloaded, "in_the_meantime", staticmethod(other))
    assert len(_cifar(Downloaded, "train", tmp_path, 2, MEAN, STD).images) == 2
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["batch", "set"]


GOOD = ImageSet(torch.zeros(4, 32, 32, 3, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]), 2, (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": torch.zeros(4, 32, 32, 3)}, r"images as a uint8 tensor (N, 32, 32, 3), not torch.float32 (4, 32, 32, 3)"),
        ({"images": GOOD.images[:, :28, :28]}, "not torch.uint8 (4, 28, 28, 3)"),
        ({"images": GOOD.images[:0], "targets": GOOD.targets[:0]}, "not torch.uint8 (0, 32, 32, 3)"),
        ({"images": GOOD.images.numpy()}, "not uint8 (4, 32, 32, 3)"),
        ({"targets": [0, 1, 0, 1]}, "targets as an int64 tensor (4,), not list"),
        ({"targets": GOOD.targets.int()}, "not torch.int32 (4,)"),
        ({"targets": GOOD.targets[:3]}, "not torch.int64 (3,)"),
        ({"num_classes": 1}, "targets from 0 to num_classes - 1, not 0 to 1 of 1"),
        ({"std": (0.5, 0.5, 0.0)}, "three positive deviations"),
        ({"mean": (0.5, math.nan, 0.5)}, "three finite means"),
    ],
)
def test_what_a_function_of_ones_own_returns_is_checked(changes, words, monkeypatch):
    monkeypatch.setitem(DATASETS, "mine", lambda split, root: replace(GOOD, **changes))
    with pytest.raises(BadPart, match=f"--dataset mine: the test set must be an ImageSet .*{re.escape(words)}"):
        load_images("mine", "test")


def test_a_function_that_fails_or_returns_nothing_is_named(monkeypatch):
    monkeypatch.setitem(DATASETS, "nothing", lambda split, root: None)
    with pytest.raises(BadPart, match=r"--dataset nothing: the train set must be an ImageSet .*, not NoneType"):
        load_images("nothing", "train")
    monkeypatch.setitem(DATASETS, "gone", lambda split, root: open(root / "gone" / split))
    with pytest.raises(BadInput, match=r"--dataset gone: it cannot be read \(FileNotFoundError: "):
        load_images("gone", "train", "/nowhere")


def test_a_batch_has_an_image():
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        get_dataloader("Digits", "train", 0)


def test_digits_are_the_same_pixels_from_version_to_version():
    """A run that is resumed with other versions of torch or scikit-learn has the same data."""
    digest = data_digest(*(load_images("Digits", split) for split in ("train", "test")))
    assert digest[:12] == "9bc4ffa77881"


@pytest.mark.parametrize(
    ("name", "classes", "mean", "std"), [("CIFAR10", 10, MEAN, STD), ("CIFAR100", 100, (0.5,) * 3, (0.5,) * 3)]
)
def test_cifars_constants_where_the_set_is_not_there(name, classes, mean, std, tmp_path, monkeypatch):
    monkeypatch.setattr(f"torchvision.datasets.{name}", Downloaded)
    found = load_images(name, "train", tmp_path)
    assert (found.num_classes, found.mean, found.std, found.flip) == (classes, mean, std, True)
