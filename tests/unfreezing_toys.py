"""Small modules and data that the tests of progressive unfreezing share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_transfer import ProgressiveUnfreezing

GROUPS = ["body.0", "body.2", "head"]
NORM_GROUPS = {"body.0": ["body.0"], "body.2": ["body.2", "body.3"], "head": ["head"]}


class StatefulLoader:
    """Random batches, other ones in each epoch, that go on in mid-epoch from a checkpoint.

    Args:
        batches: Batches in an epoch.
        batch_size: Examples in a batch.
        rank: Which share of each batch to give.
        world_size: Into how many shares each batch is cut.
    """

    def __init__(self, batches: int = 6, batch_size: int = 8, rank: int = 0, world_size: int = 1) -> None:
        self.batches, self.batch_size, self.rank, self.world_size = batches, batch_size, rank, world_size
        self.epoch, self.position, self.is_resumed = 0, 0, False
        self.sampler = self  # where Lightning looks for set_epoch

    def __len__(self) -> int:
        return self.batches

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if not self.is_resumed or self.position == self.batches:
            self.position = 0
        self.is_resumed = False
        generator = torch.Generator().manual_seed(self.epoch)
        inputs = torch.randn(self.batches, self.batch_size, 4, generator=generator)
        while self.position < self.batches:
            batch = inputs[self.position][self.rank :: self.world_size]
            self.position += 1
            yield batch, (batch.sum(dim=1) > 0).long()

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position, self.is_resumed = state["position"], True


class ToyModule(L.LightningModule):
    """Two hidden layers and a head, with one norm layer on request.

    Args:
        norm: Whether the second layer is followed by a batch norm.
        optimizer: Called with the module; by default SGD with momentum over all parameters.
        scheduler: Called with the optimizer.
    """

    def __init__(self, norm: bool = False, optimizer: Any = None, scheduler: Any = None, lr: float = 0.1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.BatchNorm1d(8) if norm else nn.Tanh())
        self.head = nn.Linear(8, 2)
        self.make_optimizer = optimizer or (lambda module: torch.optim.SGD(module.parameters(), lr=lr, momentum=0.9))
        self.make_scheduler = scheduler
        self.loader = StatefulLoader()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.body(inputs))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self)
        return [optimizer], [self.make_scheduler(optimizer)] if self.make_scheduler else []

    def train_dataloader(self) -> StatefulLoader:
        return self.loader

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(99))
        return DataLoader(TensorDataset(inputs, (inputs.sum(dim=1) > 0).long()), batch_size=16)


class Recorder(L.Callback):
    """Notes at each batch what is trainable; place it after the callback under test."""

    def __init__(self) -> None:
        self.trainable: list[set[str]] = []
        self.steps: list[int] = []
        self.weights: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.trainable.append({name for name, parameter in pl_module.named_parameters() if parameter.requires_grad})
        self.steps.append(trainer.global_step)
        self.weights.append({name: value.clone() for name, value in pl_module.state_dict().items()})


def trainer(*callbacks: L.Callback, root: Path | str = "/nonexistent", **options: Any) -> L.Trainer:
    """Make a quiet trainer on one CPU that writes nothing unless told to."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    saves = any(isinstance(callback, L.pytorch.callbacks.ModelCheckpoint) for callback in callbacks)
    defaults = {"max_epochs": 3, "enable_checkpointing": saves, "devices": 1, "default_root_dir": root}
    return L.Trainer(callbacks=list(callbacks), **{**quiet, **defaults, **options})


def fit(unfreezing: ProgressiveUnfreezing | None, module: L.LightningModule | None = None, **options: Any) -> Recorder:
    """Train the toy under a callback and return what the recorder saw."""
    recorder = Recorder()
    callbacks = [callback for callback in (unfreezing, recorder) if callback is not None]
    trainer(*callbacks, **options).fit(module or ToyModule())
    return recorder


def group_of(name: str) -> str:
    """Name the toy's layer group of a parameter."""
    return next(group for group, paths in NORM_GROUPS.items() if any(name.startswith(path + ".") for path in paths))
