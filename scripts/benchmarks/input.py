"""Measures the input pipeline alone (crop, flip and normalise), in images per second on one core."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2

from benchmarks.measure import Part, Row, Settings, compare, cpu_seconds
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


PARTS: dict[str, Part] = {"pipelines": pipelines}
