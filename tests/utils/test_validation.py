"""Validation images: which training images are held out, and what the loaders make of them."""

import numpy as np
import pytest
import torch

from utils.batches import ImageSet
from utils.choices import LOADERS
from utils.dataset import hold_out, load_images, make_loader
from utils.environment import seed_everything
from utils.errors import BadInput
from utils.run.build import load_data
from utils.run.settings import TrainSettings


def labelled(counts):
    """Images without content, `counts` of each class, in random order."""
    targets = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    images = torch.zeros(len(targets), 1, 1, 3, dtype=torch.uint8)
    return ImageSet(images, torch.from_numpy(targets), len(counts), (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    ("counts", "number", "expected"),
    [
        ([5000] * 10, 5000, [500] * 10),
        ([100, 50, 10], 16, [10, 5, 1]),
        ([61, 31, 8], 10, [6, 3, 1]),  # 6.1, 3.1, 0.8
        ([2, 2], 2, [1, 1]),
    ],
)
def test_each_class_has_its_share_and_each_image_one_place(counts, number, expected):
    images = labelled(counts)
    chosen, held_out = hold_out(images, number, seed=3)
    assert torch.equal(torch.cat([chosen, held_out]).sort().values, torch.arange(sum(counts)))
    assert images.targets[held_out].bincount(minlength=len(counts)).tolist() == expected
    for part in (chosen, held_out):
        assert torch.equal(part, part.sort().values)


@pytest.mark.parametrize(("number", "words"), [(2, "validation images would lack class 1"), (197, "are left would lack class 1")])
def test_a_class_that_is_too_rare_for_the_number_is_named(number, words):
    with pytest.raises(BadInput, match=f"--validation {number}: the .*{words}, which is too rare"):
        hold_out(labelled([200, 2]), number, seed=0)


def test_the_images_depend_on_the_seed_alone():
    images = labelled([50, 40])
    first = hold_out(images, 20, seed=1)[1]
    for disturb in (torch.manual_seed, np.random.seed):
        disturb(7)
        assert torch.equal(hold_out(images, 20, seed=1)[1], first)
    assert not torch.equal(hold_out(images, 20, seed=2)[1], first)
    assert len(hold_out(images, 20, seed=2**63 - 1)[1]) == 20


def test_the_images_stay_the_same_from_version_to_version():
    """A run that is resumed with other versions of NumPy or scikit-learn has the same validation images."""
    held_out = hold_out(load_images("Digits", "train"), 100, seed=0)[1]
    assert held_out[:8].tolist() == [0, 79, 80, 86, 104, 167, 168, 186]


def test_all_trials_of_a_seed_hold_out_the_same_images():
    def loaders(trial, seed=0):
        s = TrainSettings(model="ResNet20", dataset="Digits", validation=100, trial=trial, seed=seed)
        return load_data(s, seed_everything(s.seed, s.trial), torch.device("cpu"))

    first, second, other = loaders(1), loaders(2), loaders(1, seed=1)
    seen = [torch.cat([targets for _, targets in each.validation]) for each in (first, second, other)]
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert [each.train.begin(0)[0] for each in (first, second)] == [128, 128]
    assert not torch.equal(first.train.take(128)[1], second.train.take(128)[1])
    assert (len(first.train), len(first.validation), len(first.test)) == (11, 1, 4)  # 1,337, 100 and 360 images


@pytest.mark.parametrize("kind", LOADERS)
def test_a_loader_gives_the_chosen_images_and_validation_leaves_them_as_they_are(kind):
    images = load_images("Digits", "train")
    images = ImageSet(images.images[:60], torch.arange(60), 60, images.mean, images.std, flip=False)
    chosen, held_out = torch.arange(0, 60, 3), torch.arange(1, 60, 3)
    train = make_loader(kind, images, "train", 8, chosen=chosen, seed=1)
    for _ in range(2):
        targets = torch.cat([targets for _, targets in train])
        assert not torch.equal(targets, chosen)
        assert torch.equal(targets.sort().values, chosen)
    pixels, targets = next(iter(make_loader(kind, images, "validation", 20, chosen=held_out)))
    assert torch.equal(targets, held_out)
    expected = (images.images[held_out].permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    torch.testing.assert_close(pixels, expected)
    everything = make_loader(kind, images, "train", 60, chosen=torch.arange(60), seed=1)
    plain = make_loader(kind, images, "train", 60, seed=1)
    for one, other in zip(next(iter(everything)), next(iter(plain)), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(BadInput, match="--drop-last: 20 training images are fewer than one batch of 21"):
        make_loader(kind, images, "train", 21, chosen=chosen, drop_last=True)


@pytest.mark.parametrize(
    ("counts", "number", "words"),
    [
        ([5, 4, 3], 12, "--validation 12: must be from 3 to 9 of the 12 training images"),
        ([5, 4, 3], 10, "must be from 3 to 9"),
        ([5, 4, 3], 2, "must be from 3 to 9"),
        ([5, 1], 3, "--validation 3: each class needs at least two training images"),
    ],
)
def test_what_cannot_be_held_out_is_refused(counts, number, words):
    with pytest.raises(BadInput, match=words):
        hold_out(labelled(counts), number, seed=0)
