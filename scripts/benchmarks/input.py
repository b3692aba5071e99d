"""Measures the first preparation of images, and the input pipeline: crop, flip and normalise. One core."""

import io
import os
import shutil
import tempfile
import unittest.mock
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2

from benchmarks.measure import Part, Row, Settings, compare, cpu_seconds, silence
from lightning_transfer import ImageDataModule
from lightning_transfer.data.augment import Augmentation

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
BATCH_SIZE = 128


def pipelines(settings: Settings) -> list[Row]:
    """Measures crop after padding by 4, flip and normalisation of 32 x 32 images, in batches of 128."""
    count = settings.scaled(BATCH_SIZE * 40, BATCH_SIZE)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
    crop, flip = transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()
    pillow = transforms.Compose([crop, flip, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    floats = v2.ToDtype(torch.float32, scale=True)
    tensors = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), floats, v2.Normalize(MEAN, STD)])

    def each(read: Callable[[int], torch.Tensor]) -> None:
        for start in range(0, count, BATCH_SIZE):
            torch.stack([read(row) for row in range(start, start + BATCH_SIZE)])

    candidates = {
        "each image by PIL": lambda: each(lambda row: pillow(Image.fromarray(arrays[row]))),
        "each image by torchvision v2": lambda: each(lambda row: tensors(images[row])),
        "whole batches": lambda: whole_batches(images, count),
    }
    timed = {name: lambda run=run: cpu_seconds(run) for name, run in candidates.items()}
    return compare(timed, settings, count, "images")


def whole_batches(images: torch.Tensor, count: int) -> None:
    """Changes batches of all images in the same way as ImageDataModule."""
    augmentation = Augmentation(crop_padding=4, horizontal_flip=True)
    std = torch.tensor(STD)
    scale, shift = (1 / (255 * std)).view(3, 1, 1), (-torch.tensor(MEAN) / std).view(3, 1, 1)
    order = torch.from_numpy(np.random.default_rng(0).permutation(count))
    for rows in order.split(BATCH_SIZE):
        augmentation(images[rows], rows, seed=0, epoch=0, total=count).float().mul_(scale).add_(shift)


def preparation(settings: Settings) -> list[Row]:
    """Measures the first preparation of images in a Parquet file, beside their decoding alone."""
    count = settings.scaled(20_000, 200)
    with tempfile.TemporaryDirectory() as place:
        for split, examples in (("train", count), ("test", 20)):
            write_parquet(Path(place, "data", "data", f"{split}-00000-of-00001.parquet"), examples)
        candidates = {
            "decoded by PIL into an array": lambda: decode(Path(place, "data", "data")),
            "first preparation of ImageDataModule": lambda: prepare(Path(place, "data"), Path(place, "cache")),
        }
        timed = {name: lambda run=run: cpu_seconds(run) for name, run in candidates.items()}
        return compare(timed, settings, count, "images")


def write_parquet(file: Path, count: int) -> None:
    """Writes smooth coloured images of 32 x 32, whose PNG is about as large as that of a photograph."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    images = [Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC) for pixels in coarse]
    label = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"image": datasets.Image(), "label": label})
    rows = {"image": images, "label": [row % 2 for row in range(count)]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(file)


def decode(folder: Path) -> np.ndarray:
    """Decodes the images of a folder, as one would by hand."""
    column = pyarrow.parquet.read_table(folder / "train-00000-of-00001.parquet", columns=["image"])["image"]
    return np.stack([np.asarray(Image.open(io.BytesIO(cell["bytes"].as_py()))) for cell in column])


def prepare(folder: Path, cache: Path) -> None:
    """Prepares the images as the first training does, with an empty cache."""
    shutil.rmtree(cache, ignore_errors=True)
    with unittest.mock.patch.dict(os.environ, {"LIGHTNING_TRANSFER_CACHE": str(cache)}), silence():
        ImageDataModule(str(folder), image_size=32).prepare_data()


PARTS: dict[str, Part] = {"pipelines": pipelines, "preparation": preparation}
