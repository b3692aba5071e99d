"""Fits with kept features and without on two processes with gloo; :mod:`test_frozen_prefix` starts and reads it."""

import os
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from backbones import QUIET, transformer
from lightning.pytorch.strategies import DDPStrategy

from lightning_transfer import Classifier, DemoTexts, ProgressiveUnfreezing

if __name__ == "__main__":
    rank, folder = int(os.environ["LOCAL_RANK"]), Path(sys.argv[1])
    found: dict[str, dict[bool | str, Any]] = {"weights": {}, "computed": {}}
    for cache in (False, True, "shared"):
        network = transformer("bert", num_classes=2, dropout=0.0)
        layer: Any = network.get_submodule("model.encoder.layer.0")
        seen: list[int] = []

        def forward(states: Any, *others: Any, compute: Any = layer.forward, seen: Any = seen, **named: Any) -> Any:
            seen.append(len(states))
            return compute(states, *others, **named)

        layer.forward = forward
        torch.manual_seed(0)
        model = Classifier(network, 2, cache_features=cache)
        trainer = L.Trainer(
            max_epochs=6,
            callbacks=[ProgressiveUnfreezing(until={"epochs": 3})],
            strategy=DDPStrategy(process_group_backend="gloo"),
            devices=2,
            enable_checkpointing=False,
            **QUIET,
        )
        trainer.fit(model, datamodule=DemoTexts("target", max_vocabulary_size=60, max_tokens=20, batch_size=20))
        found["weights"][cache] = {name: p.detach() for name, p in model.named_parameters()}
        found["computed"][cache] = sum(seen)
    torch.save(found, folder / f"rank{rank}.pt")
