"""Fits every strategy on two processes with gloo; :mod:`test_strategies` starts it and reads what it leaves."""

import os
import sys
from pathlib import Path

import torch
from lightning.pytorch.strategies import DDPStrategy
from strategy_toys import STRATEGIES, Pretrained, fit
from unfreezing_toys import StatefulLoader

if __name__ == "__main__":
    rank, folder = int(os.environ["LOCAL_RANK"]), Path(sys.argv[1])
    found = {}
    for strategy in STRATEGIES:
        module = Pretrained()
        module.loader = StatefulLoader(rank=rank, world_size=2)
        fit(strategy, module, strategy=DDPStrategy(process_group_backend="gloo"), devices=2)
        found[strategy] = {name: value.detach() for name, value in module.state_dict().items()}
    torch.save(found, folder / f"rank{rank}.pt")
