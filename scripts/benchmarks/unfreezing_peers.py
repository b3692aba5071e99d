"""Compares progressive unfreezing with Lightning's BackboneFinetuning and, if installed, finetuning-scheduler.

``pip install finetuning-scheduler`` adds the latter; no other part needs it.
"""

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import BackboneFinetuning
from torch import Tensor, nn

from benchmarks.measure import Row, Settings
from lightning_transfer import ProgressiveUnfreezing

EPOCHS, BATCHES = 3, 6


class Batches:
    """Random batches, new ones in each epoch, that can resume in mid-epoch from a checkpoint."""

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank, self.world_size = rank, world_size
        self.epoch = self.position = 0
        self.is_resumed = False
        self.sampler = self  # Lightning looks there for set_epoch

    def __len__(self) -> int:
        return BATCHES

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch, and so the batches."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Tensor]:
        self.position = self.position % BATCHES if self.is_resumed else 0
        self.is_resumed = False
        inputs = torch.randn(BATCHES, 8, 4, generator=torch.Generator().manual_seed(self.epoch))
        while self.position < BATCHES:
            self.position += 1
            yield inputs[self.position - 1][self.rank :: self.world_size]

    def state_dict(self) -> dict[str, int]:
        """Returns the place in the epoch."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues from a saved place."""
        self.position, self.is_resumed = state["position"], True


class Toy(L.LightningModule):
    """A backbone and a head. The backbone should train from the second epoch on."""

    def __init__(self, scheduler: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())
        self.head = nn.Linear(8, 2)
        self.make_scheduler = scheduler

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Computes the loss."""
        return nn.functional.cross_entropy(self.head(self.backbone(batch)), (batch.sum(dim=1) > 0).long())

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Logs the loss under the name that finetuning-scheduler requires."""
        self.log("val_loss", self.training_step(batch, batch_idx), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Returns the optimizer, and the scheduler if there is one."""
        # BackboneFinetuning adds the backbone's group itself and asks for an optimizer without it.
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9)
        scheduler = self.make_scheduler(optimizer) if self.make_scheduler else None
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}] if scheduler else []


def ours() -> list[L.Callback]:
    """Returns this project's callback, which thaws the backbone after one epoch."""
    return [ProgressiveUnfreezing(["backbone", "head"], until={"epochs": 1})]


def lightnings() -> list[L.Callback]:
    """Returns Lightning's callback, set to do the same."""
    return [
        BackboneFinetuning(1, backbone_initial_lr=0.1, train_bn=False, should_align=False, lambda_func=lambda _: 1.0)
    ]


def finetuning_schedulers() -> list[L.Callback]:
    """Returns finetuning-scheduler's callbacks, set to do the same."""
    from finetuning_scheduler import FinetuningScheduler, FTSCheckpoint

    schedule = {
        0: {"params": ["head.weight", "head.bias"], "max_transition_epoch": 1},
        1: {
            "params": [f"backbone.{name}" for name, _ in Toy().backbone.named_parameters()],
            "max_transition_epoch": EPOCHS + 1,
            "lr": 0.1,
        },
    }
    fts = FinetuningScheduler(ft_schedule=schedule, epoch_transitions_only=True, logging_level=logging.ERROR)
    return [fts, FTSCheckpoint(monitor="val_loss", save_top_k=1)]


PEERS = {"ProgressiveUnfreezing": ours, "BackboneFinetuning": lightnings, "finetuning-scheduler": finetuning_schedulers}


class Saver(L.Callback):
    """Saves a checkpoint in the middle and at the end of each epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Saves in the middle of an epoch."""
        if trainer.global_step % BATCHES == BATCHES // 2:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Saves at the end of an epoch."""
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def fit(
    peer: str, module: L.LightningModule, folder: Path, *more: L.Callback, ckpt_path: Path | None = None, **options: Any
) -> L.Trainer:
    """Trains the toy with one of the peers."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    batches = options.pop("batches", Batches())
    trainer = L.Trainer(
        **{**quiet, "devices": 1, "max_epochs": EPOCHS, "default_root_dir": folder, **options},
        callbacks=[*PEERS[peer](), *more],
        num_sanity_val_steps=0,
    )
    validation = torch.utils.data.DataLoader(
        torch.randn(8, 4, generator=torch.Generator().manual_seed(9)), batch_size=8
    )
    trainer.fit(module, batches, validation, ckpt_path=ckpt_path, weights_only=False)
    return trainer


def difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Computes the largest difference between two states."""
    return max(float((ours[name].float() - theirs[name].float()).abs().max()) for name in ours)


def attempt(measure: Callable[[], str]) -> str:
    """Returns the result of a measurement, or the name of the exception that ended it."""
    try:
        return measure()
    except Exception as error:
        return type(error).__name__


def replica_drift(peer: str, folder: Path) -> str:
    """Measures the largest difference between two ranks' weights after three epochs."""
    port = str(20000 + os.getpid() % 20000)
    shared = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path[:2]),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
        "NODE_RANK": "0",
    }
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.unfreezing_peers", peer, str(folder)]
    ranks = [
        subprocess.Popen(
            command, env={**shared, "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=300)[1].decode() for rank in ranks]
    if any(rank.returncode for rank in ranks):
        raise RuntimeError(errors[0] + errors[1])
    first, second = (torch.load(folder / f"rank{rank}.pt") for rank in range(2))
    return f"{difference(first, second):.2g}"


def train_as_rank(peer: str, folder: Path) -> None:
    """Trains as one of two processes and saves the weights."""
    rank = int(os.environ["LOCAL_RANK"])
    module = Toy()
    fit(peer, module, folder, devices=2, strategy="ddp", batches=Batches(rank, 2))
    torch.save({name: parameter.detach() for name, parameter in module.named_parameters()}, folder / f"rank{rank}.pt")


def resume_difference(peer: str, folder: Path, step: int) -> str:
    """Measures the largest difference between the weights of a resumed and an uninterrupted run."""
    uninterrupted, resumed = Toy(), Toy()
    fit(peer, uninterrupted, folder, Saver(folder))
    fit(peer, resumed, folder, ckpt_path=folder / f"{step}.ckpt")
    return f"{difference(uninterrupted.state_dict(), resumed.state_dict()):.2g}"


def statistics_moved(peer: str, folder: Path) -> str:
    """Measures how far the running mean moves in the first epoch, in which the backbone is frozen."""
    fit(peer, Toy(), folder, Saver(folder))
    mean = torch.load(folder / f"{BATCHES}.ckpt", weights_only=False)["state_dict"]["backbone.1.running_mean"]
    return f"{float(mean.abs().max()):.2g}"


def scheduled(peer: str, folder: Path, scheduler: Callable[[Any], Any]) -> str:
    """Says whether the fit succeeds and the thawed group ends at the same learning rate as the head."""
    trainer = fit(peer, Toy(scheduler=scheduler), folder)
    rates = {round(group["lr"], 9) for group in trainer.optimizers[0].param_groups}
    return "ok" if len(rates) == 1 else "other rate"


def compare_peers(settings: Settings) -> list[Row]:
    """Compares callbacks that train the head for one epoch, then everything. A difference of weights should be 0."""
    total = EPOCHS * BATCHES
    measures: dict[str, Callable[[str, Path], str]] = {
        "resume, end of epoch 1": lambda peer, folder: resume_difference(peer, folder, BATCHES),
        "resume, end of epoch 2": lambda peer, folder: resume_difference(peer, folder, 2 * BATCHES),
        "resume, mid-epoch 3": lambda peer, folder: resume_difference(peer, folder, 2 * BATCHES + BATCHES // 2),
        "running mean of a frozen batch norm": statistics_moved,
        "OneCycleLR": lambda p, f: scheduled(p, f, lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total)),
        "LambdaLR": lambda p, f: scheduled(p, f, lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t))),
        "LinearLR": lambda p, f: scheduled(p, f, lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.5, 1.0, total - 4)),
    }
    if not settings.quick:  # it starts six processes
        measures = {"replica drift, 2 processes": replica_drift, **measures}
    rows: list[Row] = []
    for title, measure in measures.items():
        row: Row = {"": title}
        for peer in PEERS:
            with tempfile.TemporaryDirectory() as folder:
                row[peer] = attempt(partial(measure, peer, Path(folder)))
        rows.append(row)
    return rows


if __name__ == "__main__":  # replica_drift starts its processes here
    torch.set_num_threads(1)
    train_as_rank(sys.argv[1], Path(sys.argv[2]))
