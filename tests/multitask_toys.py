"""Two tasks of small images, one with ten times the examples of the other, and the second one's coarse labels.

As a program it trains them on one of two processes with gloo; :mod:`test_multitask` starts it.
"""

import importlib.util
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from conftest import image_dataset, write_parquet
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from lightning_transfer import CIFAR10, MultiTaskDataModule, MultiTaskModule
from lightning_transfer.data.cache import CACHE_VARIABLE

HAS_TORCHJD = importlib.util.find_spec("torchjd") is not None
SCENARIOS: dict[str, dict[str, Any]] = {
    "proportional": {"data": {"mixing": "proportional"}},
    "uncertainty": {"data": {"mixing": "uniform"}, "model": {"weighting": "uncertainty"}},
    "together": {"data": {"mixing": "together"}},
    "same examples": {"data": {"mixing": "together", "coarse": True}},
    "balanced": {"data": {"mixing": "together"}, "model": {"weighting": "upgrad"}},
    "accumulation": {"data": {"mixing": "uniform"}, "trainer": {"accumulate_grad_batches": 2}},
}
if not HAS_TORCHJD:
    del SCENARIOS["balanced"]


class SmallNetwork(nn.Module):
    """Sees the mean colours, and has a norm layer less than others."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(3, 8)
        self.head = nn.Linear(8, num_classes)
        self.layer_groups = ["hidden", "head"]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.hidden(images.mean((2, 3))).tanh())
        return logits


def write_tasks(folder: Path) -> None:
    """Writes both data sets: 200 examples of 4 classes, and 20 of 5 with a coarser label."""
    coarse = [["low", "high"][row % 5 == 0] for row in range(20)]
    write_parquet(folder / "large", train=image_dataset(200, 4), test=image_dataset(24, 4, seed=1))
    small, test = image_dataset(20, 5, seed=2), image_dataset(20, 5, seed=3)
    write_parquet(folder / "small", train=small.add_column("coarse", coarse), test=test.add_column("coarse", coarse))


def tasks(folder: Path, coarse: bool = False, **options: Any) -> MultiTaskDataModule:
    """The tasks; half of each is held out, which leaves 100 examples to train on and 10."""
    part = partial(CIFAR10, batch_size=4, validation_fraction=0.5)
    data: dict[str, Any] = {"large": part(path=str(folder / "large")), "small": part(path=str(folder / "small"))}
    if coarse:
        data["coarse"] = part(path=str(folder / "small"), label_column="coarse")
        options["same_examples"] = {"coarse": "small"}
    return MultiTaskDataModule(data, **options)


def module(data: MultiTaskDataModule, **options: Any) -> MultiTaskModule:
    """A module for them, always with the same weights."""
    torch.manual_seed(0)
    optimizer = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    network = SmallNetwork(data.num_classes)
    return MultiTaskModule(network, data.outputs, data.problem_types, optimizer=optimizer, **options)  # type: ignore[arg-type]


def trainer(*callbacks: L.Callback, **options: Any) -> L.Trainer:
    """A trainer that writes nothing."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "use_distributed_sampler": False, "accelerator": "cpu"}
    return L.Trainer(**{"max_epochs": 2, "callbacks": [*callbacks], "devices": 1, **quiet, **options})


def fit(folder: Path, name: str, **options: Any) -> dict[str, torch.Tensor]:
    """Trains a scenario and returns the weights and what was logged."""
    scenario = SCENARIOS[name]
    L.seed_everything(1, verbose=False)
    data = tasks(folder, **scenario["data"])
    found = module(data, **scenario.get("model", {}))
    used = trainer(**{**scenario.get("trainer", {}), **options})
    used.fit(found, datamodule=data)
    return {**found.state_dict(), **{name: value.double() for name, value in used.callback_metrics.items()}}


if __name__ == "__main__":
    rank, folder = int(os.environ["LOCAL_RANK"]), Path(sys.argv[1])
    os.environ[CACHE_VARIABLE] = str(folder / "cache")

    def as_one_of_two(name: str) -> dict[str, torch.Tensor]:
        return fit(folder, name, strategy=DDPStrategy(process_group_backend="gloo"), devices=2)

    torch.save({name: as_one_of_two(name) for name in SCENARIOS}, folder / f"rank{rank}.pt")
