"""Fits every family on two processes with gloo; :mod:`test_backbone_replicas` starts it and reads what it leaves."""

import os
import sys
from pathlib import Path

import lightning as L
import torch
from backbones import QUIET, TIMM, TRANSFORMERS, classifier, images, loader_of, texts, timm_network, transformer
from lightning.pytorch.strategies import DDPStrategy

from lightning_transfer import ProgressiveUnfreezing

if __name__ == "__main__":
    rank, folder = int(os.environ["LOCAL_RANK"]), Path(sys.argv[1])
    families = [(name, transformer, texts) for name in TRANSFORMERS] + [(name, timm_network, images) for name in TIMM]
    found = {}
    for name, build, batch in families:
        model = classifier(build(name))
        batches = [batch(2 * step + rank) for step in range(2)]
        trainer = L.Trainer(
            max_epochs=2,
            callbacks=[ProgressiveUnfreezing(until={"epochs": 1})],
            strategy=DDPStrategy(process_group_backend="gloo"),
            devices=2,
            enable_checkpointing=False,
            **QUIET,
        )
        trainer.fit(model, loader_of(batches))
        found[name] = {key: value for key, value in model.state_dict().items() if key.startswith("network.")}
    torch.save(found, folder / f"rank{rank}.pt")
