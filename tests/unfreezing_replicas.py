"""Runs the toy on two processes with gloo; :mod:`test_unfreezing_ddp` starts it and reads what it leaves."""

import gc
import os
import sys
import weakref
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from unfreezing_toys import GROUPS, Recorder, StatefulLoader, ToyModule, trainer

from lightning_transfer import ProgressiveUnfreezing

EPOCHS = {"until": {"epochs": 1}}
SCENARIOS: dict[str, dict[str, Any]] = {
    "epochs": {"schedule": EPOCHS},
    "static graph": {"schedule": EPOCHS, "ddp": {"static_graph": True}},
    "accumulation": {"schedule": EPOCHS, "trainer": {"accumulate_grad_batches": 2}},
    "chain, bucket views": {
        "schedule": {"schedule": "chain", "until": {"steps": 5}},
        "ddp": {"gradient_as_bucket_view": True},
    },
    "manual optimization, static graph": {"schedule": EPOCHS, "ddp": {"static_graph": True}, "manual": True},
    "plateau": {
        "schedule": {"until": {"plateau": {"monitor": "val/rank", "mode": "min", "patience": 1, "restore_best": True}}},
        "trainer": {"val_check_interval": 3},
    },
}


class CountingStrategy(DDPStrategy):
    """Counts the bytes that DDP reduces, and the wrappers that are still alive."""

    def __init__(self, **options: Any) -> None:
        super().__init__(process_group_backend="gloo", **options)
        self.reduced_bytes = 0
        self.wrappers: list[weakref.ref[DistributedDataParallel]] = []

    def configure_ddp(self) -> None:
        super().configure_ddp()
        assert isinstance(self.model, DistributedDataParallel)
        self.model.register_comm_hook(None, self._reduce)
        self.wrappers.append(weakref.ref(self.model))

    def _reduce(self, state, bucket):  # type: ignore[no-untyped-def]  # DDP refuses an annotation of Any
        self.reduced_bytes += bucket.buffer().numel() * bucket.buffer().element_size()
        return allreduce_hook(None, bucket)


class Meter(Recorder):
    """Also notes the bytes reduced for each batch, and how many wrappers of the module are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.reduced_bytes: list[int] = []
        self.alive: list[int] = []

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        strategy = trainer.strategy
        if isinstance(strategy, CountingStrategy):
            self.reduced_bytes.append(strategy.reduced_bytes)
            strategy.reduced_bytes = 0

    def on_train_epoch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if isinstance(trainer.strategy, CountingStrategy):
            gc.collect()
            self.alive.append(sum(wrapper() is not None for wrapper in trainer.strategy.wrappers))


class ReplicaModule(ToyModule):
    """The toy on this rank's share of each batch; logs a metric that each rank would judge otherwise."""

    def __init__(self, rank: int, world_size: int, manual: bool = False) -> None:
        super().__init__()
        self.loader = StatefulLoader(rank=rank, world_size=world_size)
        self.automatic_optimization = not manual
        self.rank = rank

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        # Rank 0 sees no improvement, rank 1 one at every check.
        self.log("val/rank", 1.0 - self.rank * self.global_step)


def run(name: str, rank: int = 0, world_size: int = 1) -> dict[str, Any]:
    """Train a scenario as one rank and return what it saw."""
    scenario, meter = SCENARIOS[name], Meter()
    options: dict[str, Any] = {"max_epochs": 3, **scenario.get("trainer", {})}
    if world_size > 1:
        options |= {"strategy": CountingStrategy(**scenario.get("ddp", {})), "devices": world_size}
    module = ReplicaModule(rank, world_size, manual=scenario.get("manual", False))
    trainer(ProgressiveUnfreezing(GROUPS, **scenario["schedule"]), meter, **options).fit(module)
    weights = [*meter.weights, {key: value.detach().clone() for key, value in module.state_dict().items()}]
    return {"weights": weights, "trainable": meter.trainable, "bytes": meter.reduced_bytes, "alive": meter.alive}


def resume(rank: int, world_size: int, folder: Path) -> dict[str, Any]:
    """Stop after a transition in mid-epoch, and resume."""
    final = {}
    for ckpt_path in (None, folder / "step=15.ckpt"):
        checkpoint = ModelCheckpoint(dirpath=folder, save_top_k=-1, filename="{step}", every_n_train_steps=15)
        module = ReplicaModule(rank, world_size)
        callbacks = [ProgressiveUnfreezing(GROUPS), *([] if ckpt_path else [checkpoint])]
        trainer(*callbacks, strategy=CountingStrategy(), devices=world_size).fit(module, ckpt_path=ckpt_path)
        final["resumed" if ckpt_path else "uninterrupted"] = module.state_dict()
    return final


if __name__ == "__main__":
    rank, folder = int(os.environ["LOCAL_RANK"]), Path(sys.argv[1])
    results: dict[str, Any] = {name: run(name, rank, 2) for name in SCENARIOS}
    results["resume"] = resume(rank, 2, folder)
    torch.save(results, folder / f"rank{rank}.pt")
