"""Augmentation of batches: per example, reproducible, only translations and reflections."""

import pytest
import torch

from lightning_transfer.data.augment import Augmentation, uniform
from lightning_transfer.errors import UserError

IMAGES = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
INDICES = torch.arange(64)
BOTH = Augmentation(crop_padding=2, horizontal_flip=True)


def test_every_image_is_one_of_its_translations_and_reflections() -> None:
    augmented = BOTH(IMAGES, INDICES, seed=0, epoch=0)
    for image, result in zip(IMAGES, augmented, strict=True):
        padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
        candidates = [padded[:, y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
        assert any(torch.equal(result, c) or torch.equal(result, c.flip(-1)) for c in candidates)


def test_every_translation_occurs() -> None:
    places = torch.arange(64).view(1, 1, 8, 8).expand(2000, 1, 8, 8)  # from 1 on, where nothing is added
    augmented = Augmentation(crop_padding=2)(places + 1, torch.arange(2000), seed=0, epoch=0)
    middles = augmented[:, 0, 4, 4] - 1
    assert sorted(set(middles.tolist())) == [8 * row + column for row in range(2, 7) for column in range(2, 7)]


def test_examples_of_a_batch_are_changed_differently() -> None:
    same = IMAGES[:1].expand(64, -1, -1, -1)
    assert len(torch.unique(BOTH(same, INDICES, seed=0, epoch=0), dim=0)) > 20


def test_result_depends_on_example_seed_and_epoch_but_not_on_the_batch() -> None:
    whole = BOTH(IMAGES, INDICES, seed=1, epoch=2)
    part = BOTH(IMAGES[40:50], INDICES[40:50], seed=1, epoch=2)
    assert torch.equal(whole[40:50], part)
    assert not torch.equal(whole, BOTH(IMAGES, INDICES, seed=2, epoch=2))
    assert not torch.equal(whole, BOTH(IMAGES, INDICES, seed=1, epoch=3))


def test_half_of_the_images_are_flipped() -> None:
    images = torch.arange(8).view(1, 1, 1, 8).expand(10_000, 1, 1, 8)
    flipped = Augmentation(horizontal_flip=True)(images, torch.arange(10_000), seed=0, epoch=0)[:, 0, 0, 0] == 7
    assert 0.47 < flipped.float().mean() < 0.53


def test_alternating_flip_shows_each_image_in_both_ways_in_two_epochs() -> None:
    augmentation = Augmentation(horizontal_flip="alternating")
    epochs = [augmentation(IMAGES, INDICES, seed=0, epoch=epoch) for epoch in range(4)]
    assert torch.equal(epochs[1], epochs[0].flip(-1))
    assert torch.equal(epochs[2], epochs[0])
    assert torch.equal(epochs[3], epochs[1])
    flipped = (epochs[0] != IMAGES).flatten(1).any(1)
    assert 16 < flipped.sum() < 48


def test_reflection_pads_with_the_image_itself() -> None:
    augmented = Augmentation(crop_padding=3, padding="reflection")(IMAGES, INDICES, seed=0, epoch=0)
    for image, result in zip(IMAGES, augmented, strict=True):
        padded = torch.nn.functional.pad(image.float(), (3, 3, 3, 3), mode="reflect").to(torch.uint8)
        assert any(torch.equal(result, padded[:, y : y + 8, x : x + 8]) for y in range(7) for x in range(7))


def test_cutout_fills_one_square_with_the_mean_colour() -> None:
    images = IMAGES.float()
    changed = Augmentation(cutout=3)(images, INDICES, seed=0, epoch=0) != images
    assert torch.equal(changed.sum((2, 3)), torch.full((64, 3), 9))
    rows, columns = changed.any(1).any(2), changed.any(1).any(1)
    assert torch.equal(rows.sum(1), torch.full((64,), 3))
    assert torch.equal(columns.sum(1), torch.full((64,), 3))
    assert len(torch.unique(rows.float().argmax(1))) == 6  # every place where it fits
    cut = Augmentation(cutout=8)(images, INDICES, seed=0, epoch=0)
    torch.testing.assert_close(cut, images.mean((2, 3), keepdim=True).expand_as(images))


@pytest.mark.parametrize("arguments", [{"crop_padding": 8, "padding": "reflection"}, {"cutout": 9}])
def test_more_than_the_image_is_refused(arguments: dict) -> None:
    with pytest.raises(UserError, match="too much for images of 8 pixels"):
        Augmentation(**arguments)(IMAGES, INDICES, seed=0, epoch=0)


def test_nothing_asked_for_changes_nothing() -> None:
    assert torch.equal(Augmentation()(IMAGES, INDICES, seed=0, epoch=0), IMAGES)


def test_draws_of_a_whole_epoch_are_those_of_the_batch() -> None:
    everything = Augmentation(crop_padding=2, padding="reflection", horizontal_flip="alternating", cutout=3)
    rows = torch.cat([INDICES[::2].flip(0), INDICES + 1000])[: len(IMAGES)]
    for epoch in (0, 1, 5):
        expected = everything(IMAGES, rows, seed=7, epoch=epoch)
        assert torch.equal(everything(IMAGES, rows, seed=7, epoch=epoch, total=2000), expected)


def test_negative_padding_is_refused() -> None:
    with pytest.raises(UserError, match="crop_padding is -1"):
        Augmentation(crop_padding=-1)


def test_uniform_numbers_are_uniform_and_independent_of_each_other() -> None:
    indices = torch.arange(100_000)
    first, second = uniform(indices, 2**32 - 1, 5, 0), uniform(indices, 2**32 - 1, 5, 1)
    assert 0 <= first.min() < 1e-3
    assert 0.999 < first.max() < 1
    histogram = torch.histc(first, 20, 0, 1)
    assert (histogram - 5000).abs().max() < 5 * 5000**0.5
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 0.02
    assert abs(torch.corrcoef(torch.stack([first[1:], first[:-1]]))[0, 1]) < 0.02
