"""Chooses a layout on two processes with gloo; :mod:`test_memory_layout` starts it and reads what it leaves."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from test_memory_layout import Watch, fitted

from lightning_transfer.cluster.sharding import FullyShardedStrategy
from lightning_transfer.data.cache import CACHE_VARIABLE
from lightning_transfer.modules import memory_layout

if __name__ == "__main__":
    rank, folder = int(os.environ["LOCAL_RANK"]), Path(sys.argv[1])
    os.environ[CACHE_VARIABLE] = str(folder / "cache")
    watch = Watch()
    if rank:
        watch.seconds["channels_last"] = 2.0
    memory_layout.measured_seconds = watch
    strategies = {
        "ddp": DDPStrategy(process_group_backend="gloo"),
        "sharded": FullyShardedStrategy(process_group_backend="gloo"),
        "sharded though asked for": FullyShardedStrategy(process_group_backend="gloo"),
    }
    found = {}
    for name, strategy in strategies.items():
        asked: Any = True if "asked" in name else "auto"
        module = fitted(folder, channels_last=asked, strategy=strategy, devices=2, use_distributed_sampler=False)
        values = {key: value.detach() for key, value in module.network.named_parameters()}
        found[name] = {key: value.full_tensor() if "sharded" in name else value for key, value in values.items()}
    torch.save({**found, "asked": watch.asked}, folder / f"rank{rank}.pt")
