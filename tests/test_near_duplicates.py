"""Images that look the same are found though no byte is the same, and others are not."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from conftest import write_parquet
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

from lightning_transfer import ImageDataModule
from lightning_transfer.data import near_duplicates
from lightning_transfer.data.near_duplicates import find_near_duplicates, perceptual_hashes
from lightning_transfer.errors import UserError


def pictures(count: int, seed: int) -> list[Image.Image]:
    """Pictures of soft shapes, each another one."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return [Image.fromarray(image).resize((48, 48), Image.Resampling.BICUBIC) for image in coarse]


def stacked(images: list[Image.Image]) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])


def changed(image: Image.Image, kind: str) -> Image.Image:
    if kind == "scaled":
        return image.resize((30, 30)).resize((48, 48))
    if kind == "darker":
        return ImageEnhance.Brightness(image).enhance(0.8)
    if kind == "blurred":
        return image.filter(ImageFilter.GaussianBlur(1))
    noise = np.random.default_rng(0).integers(-6, 7, (48, 48, 3))
    return Image.fromarray((np.array(image).astype(int) + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("kind", ["scaled", "darker", "blurred", "noisy"])
def test_changed_copies_are_found_as_their_originals_and_no_others(kind: str) -> None:
    originals, others = pictures(60, seed=0), pictures(40, seed=1)
    copies = [changed(image, kind) for image in originals[10:20]]
    found = find_near_duplicates(stacked([*others, *copies]), stacked(originals), bits=4)
    assert found.rows.tolist() == [*range(40, 50)]
    assert found.others.tolist() == [*range(10, 20)]


def test_hash_is_exact_and_that_of_one_colour_does_not_depend_on_rounding() -> None:
    images = stacked(pictures(5, seed=2))
    assert perceptual_hashes(images).dtype == np.uint64
    assert len(set(perceptual_hashes(images).tolist())) == 5
    flat = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 33, 33)
    assert len(set(perceptual_hashes(flat[1:]).tolist())) == 1
    assert len(find_near_duplicates(images, images, bits=0).rows) == 5


def test_images_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    images = stacked(pictures(30, seed=3))
    whole = find_near_duplicates(images, images[20:], bits=0)
    monkeypatch.setattr(near_duplicates, "_BLOCK", 40)
    in_blocks = find_near_duplicates(images, images[20:], bits=0)
    assert in_blocks.rows.tolist() == whole.rows.tolist() == [*range(20, 30)]
    assert in_blocks.others.tolist() == [*range(10)]


def test_images_that_look_like_training_images_are_counted_and_said_where_asked(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=2)})
    train = pictures(20, seed=0)
    parts = {"train": train, "test": [changed(train[3], "noisy"), *pictures(5, seed=1)], "val": pictures(4, seed=2)}
    sets = {
        name: datasets.Dataset.from_dict({"image": images, "label": [row % 2 for row in range(len(images))]}, features)
        for name, images in parts.items()
    }
    root = str(write_parquet(tmp_path / "set", **sets))
    data = ImageDataModule(root, image_size=48, near_duplicate_bits=4)
    data.test_follows = True
    with pytest.warns(
        UserWarning, match="1 of 6 images of data.test_split test look like one of train: row 0 as row 3"
    ):
        data.prepare_data()
    assert data.facts["test_examples_in_training_split"] == 0
    assert data.facts["test_near_duplicates_in_training_split"] == 1
    assert data.facts["validation_near_duplicates_in_training_split"] == 0
    data = ImageDataModule(root, image_size=48)
    data.prepare_data()
    assert "validation_near_duplicates_in_training_split" not in data.facts
    with pytest.raises(UserError, match=r"data\.near_duplicate_bits is -1: expected 0 or more"):
        ImageDataModule(root, near_duplicate_bits=-1)
