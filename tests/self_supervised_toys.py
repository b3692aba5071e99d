"""Small images of a few colours, and a network that sees their mean colours.

As a program it learns from them without labels on one of two processes with gloo; :mod:`test_self_supervised` starts
it.
"""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from conftest import image_dataset, write_parquet
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from lightning_transfer import CIFAR10, SelfSupervisedModule, Views
from lightning_transfer.data.cache import CACHE_VARIABLE

SCENARIOS: dict[str, dict[str, Any]] = {name: {"loss": name} for name in ("simclr", "barlow_twins", "simsiam")}


class ColourNetwork(nn.Module):
    """Sees the mean colours of four quarters. It has no norm layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(12, 16)
        self.head = nn.Linear(16, num_classes)
        self.layer_groups = ["hidden", "head"]

    def forward(self, images: Tensor) -> Tensor:
        quarters = nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)
        logits: Tensor = self.head(self.hidden(quarters).tanh())
        return logits


class Agreement(nn.Module):
    """Wants both views to have the same projection, and nothing else: it is best where all images have."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return 1 - nn.functional.cosine_similarity(first, second).mean()


def write_images(folder: Path) -> Path:
    """Writes 120 images to learn from and 30 to test with, of 3 classes."""
    return write_parquet(folder / "set", train=image_dataset(120), test=image_dataset(30, seed=1))


def images(folder: Path, **options: Any) -> CIFAR10:
    """The images, of which 24 are held out."""
    return CIFAR10(**{"path": str(folder), "batch_size": 16, "validation_fraction": 0.2, "views": Views(), **options})


def module(**options: Any) -> SelfSupervisedModule:
    """A module for them, always with the same weights."""
    torch.manual_seed(0)
    optimizer = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    settings: dict[str, Any] = {"num_classes": 3, "projector": [12, 8], "optimizer": optimizer, **options}
    return SelfSupervisedModule(ColourNetwork(3), **settings)


def trainer(*callbacks: L.Callback, **options: Any) -> L.Trainer:
    """A trainer that writes nothing."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "use_distributed_sampler": False, "accelerator": "cpu"}
    quiet |= {"num_sanity_val_steps": 0, "log_every_n_steps": 3}
    return L.Trainer(**{"max_epochs": 2, "callbacks": [*callbacks], "devices": 1, **quiet, **options})


def fit(folder: Path, name: str, **options: Any) -> dict[str, Tensor]:
    """Trains a scenario in float64 and returns the weights and what was logged."""
    L.seed_everything(1, verbose=False)
    found = module(**SCENARIOS[name])
    used = trainer(precision="64-true", **options)
    used.fit(found, datamodule=images(folder))
    return {**found.state_dict(), **{name: value.double() for name, value in used.callback_metrics.items()}}


if __name__ == "__main__":
    rank, folder = int(os.environ["LOCAL_RANK"]), Path(sys.argv[1])
    os.environ[CACHE_VARIABLE] = str(folder / "cache")

    def as_one_of_two(name: str) -> dict[str, Tensor]:
        return fit(folder / "set", name, strategy=DDPStrategy(process_group_backend="gloo"), devices=2)

    torch.save({name: as_one_of_two(name) for name in SCENARIOS}, folder / f"rank{rank}.pt")
