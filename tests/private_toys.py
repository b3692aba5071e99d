"""A small private experiment that the tests of private training share."""

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor, nn

from lightning_transfer import ImageDataModule, PrivateClassifier
from lightning_transfer.data.splits import Split

EXAMPLES = 64
CLASSES = 3


class SmallImages(ImageDataModule):
    """Random images of 4 x 4 pixels whose class is in their brightness."""

    def __init__(self, **more: Any) -> None:
        given = {"batch_size": 8, "private": True, "validation_split": "validation", **more}
        super().__init__(path="none", image_size=4, mean=(0.5,) * 3, std=(0.5,) * 3, **given)

    def split_names(self) -> list[str]:
        return ["train", "validation", "test"]

    def read_class_names(self) -> list[str]:
        return [f"class{number}" for number in range(CLASSES)]

    def read_split(self, split: str) -> Split[Tensor]:
        count = EXAMPLES if split == "train" else 12
        generator = torch.Generator().manual_seed(count)
        labels = torch.arange(count) % CLASSES
        images = torch.randint(0, 100, (count, 3, 4, 4), generator=generator) + 70 * labels.view(-1, 1, 1, 1)
        return Split(images.to(torch.uint8), labels, f"small/{split}")


class SmallNetwork(nn.Module):
    """A convolution, a norm layer with running statistics, and a head."""

    layer_groups: ClassVar = {"stem": ["stem"], "norm": ["norm"], "head": ["head"]}

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(images)).relu().flatten(1))


def private(network: nn.Module | None = None, **more: Any) -> PrivateClassifier:
    torch.manual_seed(0)
    given = {"noise_multiplier": 1.0, "optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9), **more}
    return PrivateClassifier(network or SmallNetwork(), CLASSES, **given)


def trainer(folder: Path, **more: Any) -> L.Trainer:
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    given = {**dict.fromkeys(quiet, False), "max_epochs": 2, "num_sanity_val_steps": 0, **more}
    return L.Trainer(accelerator="cpu", use_distributed_sampler=False, default_root_dir=folder, **given)


def fit(folder: Path, module: PrivateClassifier | None = None, checkpoint: Path | None = None, **more: Any) -> Any:
    """Trains in a folder, and returns the module."""
    module = module or private()
    data = more.pop("data", None) or SmallImages()
    trainer(folder, **more).fit(module, data, ckpt_path=checkpoint)
    return module


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def by_opacus(steps: int, noise: float, rate: float, delta: float) -> float:
    """The ε that Opacus's accountant gives, told of one step after the other."""
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    for _ in range(steps):
        accountant.step(noise_multiplier=noise, sample_rate=rate)
    return float(accountant.get_epsilon(delta=delta))
