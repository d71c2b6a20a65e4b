"""Batches: a function of seed and epoch, with the augmentation of the torchvision pipeline, by either loader."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from utils.batches import ImageSet, Loader, ResidentLoader, TorchvisionLoader, crop_and_flip, draw_crops
from utils.choices import DATASETS, LOADERS
from utils.dataset import get_dataloader, load_images
from utils.environment import seed_everything
from utils.errors import BadInput

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def test_crop_and_flip_have_the_distribution_of_the_torchvision_pipeline():
    """Each image's crop is one of the 9 x 9 x 2 that torchvision's padding, crop and flip can give, all equally often."""
    count = 162 * 100
    image = torch.randint(1, 256, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pad = v2.Pad(4)
    padded = pad(image.permute(2, 0, 1))
    possible = {}
    for flipped in (False, True):
        for top in range(9):
            for left in range(9):
                crop = padded[:, top : top + 32, left : left + 32]
                crop = v2.functional.horizontal_flip(crop) if flipped else crop
                possible[crop.permute(1, 2, 0).numpy().tobytes()] = len(possible)
    assert len(possible) == 162
    generator = torch.Generator().manual_seed(1)
    drawn = crop_and_flip(image.expand(count, -1, -1, -1), draw_crops(count, generator))
    counts = np.bincount([possible[crop.numpy().tobytes()] for crop in drawn], minlength=162)
    chi_squared = ((counts - 100) ** 2 / 100).sum()
    assert chi_squared < 230  # 161 degrees of freedom: exceeded with probability 3e-4
    unflipped = crop_and_flip(image.expand(300, -1, -1, -1), draw_crops(300, generator, flip=False))
    assert max(possible[crop.numpy().tobytes()] for crop in unflipped) < 81


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    """A data set of the first 93 digits, 11 batches of 8 and one of 5: torchvision takes a millisecond for an image."""
    digits = DATASETS.load("Digits")

    def few(split, root):
        whole = digits(split, root)
        return replace(whole, images=whole.images[:93], targets=whole.targets[:93])

    monkeypatch.setitem(DATASETS, "few digits", few)


def epochs(count, **options):
    loader = get_dataloader("few digits", "train", 8, **options)
    return [[(images.clone(), targets.clone()) for images, targets in loader] for _ in range(count)]


def same(a, b):
    return all(torch.equal(x, y) for batch, other in zip(a, b, strict=True) for x, y in zip(batch, other, strict=True))


@pytest.mark.parametrize("loader", LOADERS)
def test_batches_are_a_function_of_seed_and_epoch(loader):
    first = epochs(2, seed=3, loader=loader)
    assert [len(targets) for _, targets in first[0]] == [8] * 11 + [5]
    torch.manual_seed(99)
    again = epochs(2, seed=3, loader=loader, workers=2)
    for epoch in range(2):
        assert same(first[epoch], again[epoch])
    assert not same(first[0], first[1])
    assert not same(first[0], epochs(1, seed=4, loader=loader)[0])
    targets = torch.cat([t for _, t in first[0]])
    assert torch.equal(targets.bincount(), load_images("few digits", "train").targets.bincount())


@pytest.mark.parametrize("kind", LOADERS)
def test_the_epoch_and_the_place_in_it_can_be_set(kind):
    loader = get_dataloader("few digits", "train", 8, seed=3, loader=kind)
    assert loader.begin(1, skip=9) == [8, 8, 5]
    second = epochs(2, seed=3, loader=kind)[1]
    assert same([loader.take(count) for count in (8, 8, 5)], second[9:])
    assert len(list(loader)) == 12  # the first epoch, whole


@pytest.mark.parametrize("loader", LOADERS)
def test_the_smaller_batch_can_be_left_out(loader):
    whole, short = epochs(2, seed=3, loader=loader), epochs(2, seed=3, loader=loader, drop_last=True)
    for epoch in range(2):
        assert len(short[epoch]) == 11
        assert same(short[epoch], whole[epoch][:11])
    assert len(get_dataloader("few digits", "train", 31, loader=loader, drop_last=True)) == 3  # 93 images, none left over


@pytest.mark.parametrize("loader", LOADERS)
def test_the_loaders_leave_the_global_generator_alone(loader):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    epochs(1, loader=loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_image_set_is_a_value():
    images = ImageSet(torch.zeros(1, 32, 32, 3, dtype=torch.uint8), torch.zeros(1), 2, MEAN, STD)
    with pytest.raises(AttributeError):
        images.flip = False


def image_set(count):
    images = torch.randint(1, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(images, torch.arange(count), count, MEAN, STD)


def test_the_loaders_give_the_same_images_without_augmentation():
    images = image_set(10)
    resident, plain = (list(kind(images, "test", 4)) for kind in map(LOADERS.load, LOADERS))
    for (ours, targets), (theirs, same_targets) in zip(resident, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        assert torch.equal(targets, same_targets)
        assert ours.is_contiguous(memory_format=torch.channels_last)
        assert theirs.is_contiguous(memory_format=torch.channels_last)


def test_both_loaders_augment_to_crops_of_the_padded_image():
    """Every image that comes out is one of the 162 of its own that padding, cropping and mirroring can give."""
    images = image_set(6)
    normalise = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    for kind in map(LOADERS.load, LOADERS):
        for batch, targets in kind(images, "train", 6, seed=1):
            for image, target in zip(batch, targets.tolist(), strict=True):
                padded = v2.functional.pad(images.images[target].permute(2, 0, 1), 4)
                crops = padded.unfold(1, 32, 1).unfold(2, 32, 1).permute(1, 2, 0, 3, 4).reshape(81, 3, 32, 32)
                possible = normalise(torch.cat([crops, crops.flip(3)]))
                assert (possible - image).abs().amax(dim=(1, 2, 3)).min() < 1e-5


def test_an_unknown_loader_is_refused():
    with pytest.raises(ValueError, match="resident, torchvision, not 'fast'"):
        get_dataloader("Digits", "test", 4, loader="fast")


def test_an_epoch_without_a_batch_is_refused():
    with pytest.raises(BadInput, match=r"--drop-last: 1437 training images are fewer than one batch of 1438"):
        get_dataloader("Digits", "train", 1438, drop_last=True)


def test_only_the_resident_loader_can_be_captured():
    assert [one.capturable for one in (ResidentLoader, TorchvisionLoader, Loader)] == [True, False, False]


@pytest.mark.parametrize("kind", LOADERS)
def test_a_test_set_can_be_entered_in_the_middle(kind):
    targets = torch.arange(10)
    images = torch.zeros(10, 32, 32, 3, dtype=torch.uint8)
    loader = LOADERS.load(kind)(ImageSet(images, targets, 10, (0.5,) * 3, (0.5,) * 3), "test", 4)
    assert [loader.take(size)[1].tolist() for size in loader.begin(0, skip=1)] == [[4, 5, 6, 7], [8, 9]]
    assert [batch.tolist() for _, batch in loader] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def crops_of(image):
    """Every crop that padding, cropping and mirroring can give of an image (32, 32, 3): its bytes -> (mirrored, top, left)."""
    padded, found = v2.Pad(4)(image.permute(2, 0, 1)), {}
    for mirrored, top, left in itertools.product((False, True), range(9), range(9)):
        crop = padded[:, top : top + 32, left : left + 32]
        found[(crop.flip(2) if mirrored else crop).permute(1, 2, 0).numpy().tobytes()] = mirrored, top, left
    return found


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("kind", LOADERS)
def test_every_image_of_an_epoch_has_a_crop_of_its_own(kind, flip):
    """Of 200 images that are one: most of the 81 places occur, half of the images are mirrored or none; an epoch draws anew."""
    image = torch.randint(1, 256, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = ImageSet(image.repeat(200, 1, 1, 1), torch.arange(200), 200, (0.0,) * 3, (1.0,) * 3, flip)
    loader, possible, draws = LOADERS.load(kind)(images, "train", 64, seed=1), crops_of(image), []
    for _ in range(2):
        draws.append({})
        for pixels, targets in loader:
            crops = (255 * pixels).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
            draws[-1] |= {target: possible[crop.numpy().tobytes()] for crop, target in zip(crops, targets.tolist(), strict=True)}
    first, second = draws
    assert len({(top, left) for _, top, left in first.values()}) > 60
    low, high = (70, 130) if flip else (0, 0)
    assert low <= sum(mirrored for mirrored, _, _ in first.values()) <= high
    assert sum(first[target] == second[target] for target in first) < 20


@pytest.mark.parametrize("kind", LOADERS)
def test_the_order_of_the_images_stays_the_same_from_version_to_version(kind):
    """A run that is resumed by a later version goes on with the batches of the run that was not stopped."""
    loader = LOADERS.load(kind)(image_set(12), "train", 12, seed=seed_everything(0, 1))
    orders = [loader.take(loader.begin(epoch)[0])[1].tolist() for epoch in (0, 1)]
    assert orders == [[8, 2, 0, 11, 6, 7, 1, 9, 4, 3, 10, 5], [0, 9, 10, 1, 8, 7, 11, 4, 6, 2, 5, 3]]
