"""Measures the classic network on images like CIFAR-10's: by a tutorial's script, a loop by hand and a config."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms

from benchmarks.measure import Clock, Part, Row, Settings, compare, silence
from lightning_transfer import ImageDataModule, SeedCNN
from lightning_transfer.cli.entry import main
from lightning_transfer.data.augment import Augmentation
from lightning_transfer.data.splits import Split

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
Channels = tuple[float, float, float]
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def generated(count: int, classes: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Makes random images, uint8 [count, 3, 32, 32], and labels, of which each class has some."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return images, torch.randperm(count, generator=generator) % classes


class GeneratedImages(ImageDataModule):
    """Random images as a data module.

    Args:
        count: Number of training images.
        classes: Number of classes.
    """

    def __init__(
        self, count: int, classes: int = 10, mean: Channels = MEAN, std: Channels = STD, **kwargs: Any
    ) -> None:
        # These include a hold-out of a hundred, or two of each class, because validation is a part of a run.
        held_out = max(100, 2 * classes)
        self.count, self.classes = count + held_out + 10, classes
        super().__init__("generated", mean=mean, std=std, validation_fraction=held_out / self.count, **kwargs)

    def read_class_names(self) -> list[str]:
        """Returns the names of the classes."""
        return [str(label) for label in range(self.classes)]

    def read_split(self, split: str) -> Split[Tensor]:
        """Makes the images."""
        return Split(*generated(self.count, self.classes, seed=int(split == "test")), fingerprint=f"generated {split}")


def by_config(config: str, count: int, batch_size: int, *arguments: str) -> float:
    """Measures the second epoch of an experiment file on generated images, with the validation before it."""
    steps = max(1, count // batch_size)
    clock = {"class_path": "benchmarks.measure.Clock", "init_args": {"first": steps, "last": 2 * steps}}
    with tempfile.TemporaryDirectory() as logs, silence():
        main(
            [
                *("fit", "--config", str(CONFIGS / config), "--test_after_fit", "false", "--logs", logs),
                *("--data", f"{__name__}.GeneratedImages", "--data.count", str(count)),
                *("--data.batch_size", str(batch_size), *arguments),
                *("--trainer.max_epochs", "2", "--trainer.accelerator", "cpu", "--checkpoint.monitor", "train/loss"),
                *("--trainer.log_every_n_steps", str(min(50, steps)), "--trainer.callbacks+", json.dumps(clock)),
            ]
        )
    return Clock.seconds


class PillowImages(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Works as torchvision's CIFAR10: it makes a PIL image of each row of an array, and transforms it."""

    def __init__(self, count: int, transform: transforms.Compose) -> None:
        images, labels = generated(count)
        self.arrays, self.labels, self.transform = images.permute(0, 2, 3, 1).contiguous().numpy(), labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.arrays[row])), int(self.labels[row])


def by_script(count: int, batch_size: int, augment: bool) -> float:
    """Runs the script of tutorials, with torchvision's transforms, a DataLoader and a running loss for printing."""
    changes = [transforms.RandomCrop(32, padding=2), transforms.RandomHorizontalFlip()] if augment else []
    transform = transforms.Compose([*changes, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    loader = torch.utils.data.DataLoader(PillowImages(count, transform), batch_size, shuffle=True)
    network = SeedCNN(10)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.001, momentum=0.9)
    start, running_loss = time.process_time(), 0.0
    for images, labels in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
    return time.process_time() - start


def by_loop(count: int, batch_size: int) -> float:
    """Runs a loop over arrays by hand, in whole batches, with only what a step needs."""
    images, labels = generated(count)
    augmentation = Augmentation(crop_padding=2, horizontal_flip=True)
    scale = 1 / (255 * torch.tensor(STD)).view(3, 1, 1)
    shift = (-torch.tensor(MEAN) / torch.tensor(STD)).view(3, 1, 1)
    network: nn.Module = SeedCNN(10).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.001, momentum=0.9, nesterov=True, weight_decay=5e-4)
    start = time.process_time()
    loss_sum, correct = torch.zeros(()), torch.zeros(())
    for rows in torch.randperm(count).split(batch_size):
        inputs = augmentation(images[rows], rows, seed=0, epoch=0, total=count).float().mul_(scale).add_(shift)
        optimizer.zero_grad()
        logits = network(inputs)
        loss = F.cross_entropy(logits, labels[rows])
        loss.backward()
        optimizer.step()
        loss_sum += loss.detach()
        correct += (logits.detach().argmax(1) == labels[rows]).sum()
    return time.process_time() - start


def epoch(settings: Settings) -> list[Row]:
    """Measures an epoch of configs/cifar10_cnn.yaml, in batches of 128 with crop and flip."""
    count = settings.scaled(128 * 390, 256)
    candidates = {
        "torchvision, PIL, DataLoader": lambda: by_script(count, 128, augment=True),
        "loop over arrays by hand": lambda: by_loop(count, 128),
        "configs/cifar10_cnn.yaml": lambda: by_config("cifar10_cnn.yaml", count, 128),
        "the same, --dashboards null": lambda: by_config("cifar10_cnn.yaml", count, 128, "--dashboards", "null"),
    }
    return compare(candidates, settings, count, "images")


def seed(settings: Settings) -> list[Row]:
    """Measures an epoch of the tutorial's recipe, in batches of 4."""
    count = settings.scaled(4 * 12_500, 40)
    candidates = {
        "the tutorial's script": lambda: by_script(count, 4, augment=False),
        "configs/cifar10_seed.yaml": lambda: by_config("cifar10_seed.yaml", count, 4),
        "the same, --dashboards null": lambda: by_config("cifar10_seed.yaml", count, 4, "--dashboards", "null"),
    }
    return compare(candidates, settings, count, "images")


PARTS: dict[str, Part] = {"epoch": epoch, "seed": seed}
