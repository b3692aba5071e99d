"""Two random views of each image: what changes, by how much, and that it follows from row, seed and epoch alone."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from lightning_transfer import CIFAR10, Augmentation, Classifier, SeedCNN, TwoViewBatch, UserError, Views
from lightning_transfer.data.augment import uniform, uniform_rows
from lightning_transfer.data.batches import ImageBatch
from lightning_transfer.data.views import _Draws

IMAGES = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SMOOTH = reference.gaussian_blur(IMAGES.float(), [7, 7], [2.0, 2.0])  # far from black and white
INDICES = torch.arange(64)
NOTHING: dict[str, Any] = {"crop_area": (1, 1), "horizontal_flip": False, "jitter_probability": 0}
NOTHING |= {"grey_probability": 0}


def drawn(count: int = 64, **named: float) -> _Draws:
    """Draws that change nothing but what is named: in the middle, and neither grey nor blurred."""
    unchanged = dict.fromkeys(_Draws._fields, 0.5) | {"flip": 1.0, "jitter": 0.0, "grey": 1.0, "blur": 1.0}
    return _Draws(**{name: torch.full((count,), value) for name, value in (unchanged | named).items()})


def test_numbers_drawn_at_once_are_those_drawn_one_by_one() -> None:
    rows = uniform_rows(INDICES, 3, 1, count=5)
    assert all(torch.equal(row, uniform(INDICES, 3, 1, number)) for number, row in enumerate(rows))


def test_views_depend_on_row_seed_and_epoch_but_not_on_the_batch() -> None:
    views = Views(blur_probability=0.5)
    whole = views(IMAGES, INDICES, seed=1, epoch=2)
    torch.testing.assert_close(whole[40:50], views(IMAGES[40:50], INDICES[40:50], seed=1, epoch=2))
    assert whole.shape == (64, 2, 3, 16, 16)
    for other in (views(IMAGES, INDICES, seed=2, epoch=2), views(IMAGES, INDICES, seed=1, epoch=3), whole.flip(1)):
        assert ((whole - other).abs().amax((1, 2, 3, 4)) > 1).all()


def test_views_without_a_change_are_the_image() -> None:
    views = Views(**NOTHING)(IMAGES, INDICES, seed=0, epoch=0)
    torch.testing.assert_close(views, IMAGES.float()[:, None].expand(-1, 2, -1, -1, -1), rtol=0, atol=1e-2)


def test_a_crop_is_what_torchvision_crops_and_resizes() -> None:
    images = torch.rand(64, 3, 32, 32)
    # A quarter of the area, with 16 pixels to a side, from row 8 and column 4 on.
    found = Views(crop_area=(0.25, 0.25))._crop(images, drawn(left=0.25, top=0.5))
    expected = reference.resized_crop(images, 8, 4, 16, 16, [32, 32], antialias=False)
    torch.testing.assert_close(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])
    mirrored = Views(crop_area=(0.25, 0.25))._crop(images, drawn(left=0.25, top=0.5, flip=0.0))
    torch.testing.assert_close(mirrored, found.flip(-1))


def test_crops_have_every_area_and_ratio_that_is_allowed_and_stay_inside() -> None:
    place = (torch.arange(64) + 0.5) / 64
    ramps = torch.stack([place.expand(64, 64), place[:, None].expand(64, 64)]).expand(5000, 2, 64, 64)
    draws = _Draws(*torch.rand(len(_Draws._fields), 5000, generator=torch.Generator().manual_seed(0)))
    shown = Views(horizontal_flip=False)._crop(ramps, draws)
    centre = shown[:, :, 31:33, 31:33]
    width = (centre[:, 0, 0, 1] - centre[:, 0, 0, 0]) * 64
    height = (centre[:, 1, 1, 0] - centre[:, 1, 0, 0]) * 64
    area, ratio = width * height, width / height
    assert 0.199 < area.min() < 0.21
    assert 0.99 < area.max() < 1.01
    assert 0.74 < ratio.min() < 0.76
    assert 1.32 < ratio.max() < 1.34
    middle = centre.mean((2, 3))
    for side, of_axis in ((width, middle[:, 0]), (height, middle[:, 1])):
        assert (of_axis - side / 2 > -0.01).all()
        assert (of_axis + side / 2 < 1.01).all()
        assert (of_axis - side / 2).min() < 0.01
    corner = middle[area > 0.9]
    assert len(corner) > 100


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("draw", [0.0, 0.7, 1.0])
def test_a_change_of_colour_is_that_of_torchvision(name: str, draw: float) -> None:
    found = Views()._change_colours(SMOOTH, drawn(**{name: draw}))
    expected = getattr(reference, f"adjust_{name}")(SMOOTH / 255, 1 + 0.4 * (2 * draw - 1)) * 255
    torch.testing.assert_close(found, expected, rtol=0, atol=0.15)
    assert (found - SMOOTH).abs().max() > 3


def test_changes_together_are_those_one_after_the_other() -> None:
    together = Views()._change_colours(SMOOTH, drawn(brightness=0.3, contrast=0.8, saturation=0.9, hue=0.8))
    one_by_one = SMOOTH
    for name, draw in {"brightness": 0.3, "contrast": 0.8, "saturation": 0.9, "hue": 0.8}.items():
        one_by_one = Views()._change_colours(one_by_one, drawn(**{name: draw}))
    torch.testing.assert_close(together, one_by_one, rtol=0, atol=0.05)


def test_hue_turns_about_grey_at_equal_luminance() -> None:
    def luminance(images: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bchw,c->bhw", images, torch.tensor([0.299, 0.587, 0.114]))

    views = Views(hue=0.5)
    quarter, half = (views._change_colours(SMOOTH, drawn(hue=draw)) for draw in (0.75, 1.0))
    torch.testing.assert_close(luminance(quarter), luminance(SMOOTH), rtol=0, atol=0.05)
    grey = luminance(SMOOTH)[:, None]
    torch.testing.assert_close(half - grey, grey - SMOOTH, rtol=0, atol=0.05)
    torch.testing.assert_close(views._change_colours(quarter, drawn(hue=0.75)), half, rtol=0, atol=0.1)
    unchanged = views._change_colours(grey.expand(-1, 3, -1, -1).contiguous(), drawn(hue=0.75))
    torch.testing.assert_close(unchanged, grey.expand(-1, 3, -1, -1), rtol=0, atol=0.05)


def test_grey_is_that_of_torchvision_and_what_is_beyond_black_and_white_is_cut_off() -> None:
    grey = Views()._change_colours(SMOOTH, drawn(grey=0.1))
    torch.testing.assert_close(grey, reference.rgb_to_grayscale(SMOOTH, 3), rtol=0, atol=0.15)
    bright = Views(brightness=1.0)._change_colours(IMAGES.float(), drawn(brightness=1.0))
    assert bright.max() == 255
    assert bright.min() >= 0


def test_blur_is_that_of_torchvision_away_from_the_edge() -> None:
    views = Views(blur_probability=1.0, blur_sigma=(1.0, 1.0))
    found = views._blur(IMAGES.float(), drawn(blur=0.0))
    expected = reference.gaussian_blur(IMAGES.float(), [15, 15], [1.0, 1.0])
    torch.testing.assert_close(found[..., 5:-5, 5:-5], expected[..., 5:-5, 5:-5], rtol=0, atol=0.1)
    flat = torch.full((64, 3, 16, 16), 100.0)
    torch.testing.assert_close(views._blur(flat, drawn(blur=0.0)), flat)
    torch.testing.assert_close(views._blur(IMAGES.float(), drawn(blur=1.0)), IMAGES.float())


def test_each_view_changes_with_its_own_probability() -> None:
    images, rows = SMOOTH[:1].expand(3000, -1, -1, -1), torch.arange(3000)
    grey = Views(**NOTHING | {"grey_probability": 0.2})(images, rows, seed=0, epoch=0)
    is_grey = (grey.amax(2) - grey.amin(2)).amax((2, 3)) < 0.01
    assert is_grey.float().mean(0).tolist() == pytest.approx([0.2, 0.2], abs=0.03)
    assert is_grey.all(1).float().mean() == pytest.approx(0.04, abs=0.015)
    mirrored = Views(**NOTHING | {"horizontal_flip": True})(images, rows, seed=0, epoch=0)
    assert ((mirrored - images[:, None]).abs().amax((2, 3, 4)) > 1).float().mean() == pytest.approx(0.5, abs=0.03)
    jittered = Views(**NOTHING | {"jitter_probability": 0.8})(images, rows, seed=0, epoch=0)
    assert ((jittered - images[:, None]).abs().amax((2, 3, 4)) > 0.1).float().mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"crop_area": (0.0, 1.0)},
            r"views.crop_area is \[0.0, 1.0\]: expected two rising numbers above 0 and at",
        ),
        ({"crop_area": (0.5, 0.4)}, r"views.crop_area is \[0.5, 0.4\]"),
        ({"crop_area": (0.5, 1.1)}, r"views.crop_area is \[0.5, 1.1\]"),
        ({"blur_sigma": (0.0, 2.0)}, r"views.blur_sigma is \[0.0, 2.0\]: expected two rising numbers above 0$"),
        ({"brightness": 1.5}, "views.brightness is 1.5: expected from 0 to 1"),
        ({"hue": 0.6}, "views.hue is 0.6: expected from 0 to 0.5"),
        ({"grey_probability": -0.1}, "views.grey_probability is -0.1: expected from 0 to 1"),
        ({"contrast": math.nan}, "views.contrast is nan"),
    ],
)
def test_values_out_of_range_are_refused(options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Views(**options)


def test_data_gives_two_views_to_train_on_and_images_as_they_are_to_validate(image_folder: Path) -> None:
    data = CIFAR10(path=str(image_folder), batch_size=9, views=Views())
    data.prepare_data()
    data.setup("fit")
    training, validation = (next(iter(loader)) for loader in (data.train_dataloader(), data.val_dataloader()))
    batch = data.on_after_batch_transfer(training, 0)
    assert isinstance(batch, TwoViewBatch)
    assert batch.images.shape == (9, 2, 3, 32, 32)
    assert abs(batch.images.mean()) < 1  # normalised
    assert torch.equal(batch.indices, training.indices)
    plain = CIFAR10(path=str(image_folder), batch_size=9)
    expected = plain.on_after_batch_transfer(validation, 0)
    assert torch.equal(data.on_after_batch_transfer(validation, 0).images, expected.images)
    assert isinstance(expected, ImageBatch)
    assert data.is_augmented


def test_views_beside_other_changes_and_for_a_classifier_are_refused(image_folder: Path) -> None:
    with pytest.raises(UserError, match=r"data.views is on: expected null for data.augmentation and data.mixing"):
        CIFAR10(views=Views(), augmentation=Augmentation(crop_padding=2))
    data = CIFAR10(path=str(image_folder), batch_size=9, views=Views())
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, devices=1)
    with pytest.raises(UserError, match=r"data.views is on, from which SelfSupervisedModule alone learns"):
        trainer.fit(Classifier(SeedCNN(3), num_classes=3), datamodule=data)
