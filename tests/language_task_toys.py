"""Reviews to classify, and streams of texts to predict, for one small network.

As a program it trains them on one of two processes with gloo; :mod:`test_language_task` starts it.
"""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from multitask_toys import trainer
from torch import nn

from lightning_transfer import (
    DemoTexts,
    DemoTextStreams,
    LanguageModel,
    LSTMClassifier,
    LSTMLanguageModel,
    MultiTaskDataModule,
    MultiTaskModule,
)
from lightning_transfer.data.cache import CACHE_VARIABLE

SCENARIOS = ("uniform", "together", "reading alone")


def tasks(**options: Any) -> MultiTaskDataModule:
    """The tasks: 160 reviews of restaurants, and streams of the same domain."""
    reviews = DemoTexts(task="target", validation_fraction=0.2, batch_size=16)
    streams = DemoTextStreams(tasks=("target",), batch_size=4, segment_tokens=20, validation_fraction=0.2)
    return MultiTaskDataModule({"reviews": reviews, "reading": streams}, **{"steps_per_epoch": 12, **options})


def network(data: MultiTaskDataModule) -> nn.Module:
    """An LSTM whose last layer is as large as an embedding."""
    return LSTMClassifier(data.vocabulary_size or 0, data.num_classes, embedding_size=8, hidden_size=8, pooling="all")


def module(data: MultiTaskDataModule, own: nn.Module | None = None, **options: Any) -> MultiTaskModule:
    """A module for them, always with the same weights."""
    torch.manual_seed(0)
    optimizer: Any = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    return MultiTaskModule(
        own or network(data),
        data.outputs,
        data.problem_types,
        optimizer=optimizer,
        language_tasks=["reading"],
        **options,
    )


def fit(scenario: str, **options: Any) -> dict[str, torch.Tensor]:
    """Trains with a rule of mixing, or a language model alone, and returns the weights and what was logged."""
    L.seed_everything(1, verbose=False)
    if scenario == "reading alone":
        data: Any = tasks().tasks["reading"]
        found: Any = LanguageModel(LSTMLanguageModel(data.vocabulary_size, embedding_size=8, hidden_size=8))
    else:
        data = tasks(mixing=scenario)
        found = module(data)
    used = trainer(**options)
    used.fit(found, datamodule=data)
    metrics = {name: value.double() for name, value in used.callback_metrics.items() if "per_second" not in name}
    return {**found.state_dict(), **metrics}


if __name__ == "__main__":
    rank, folder = int(os.environ["LOCAL_RANK"]), Path(sys.argv[1])
    os.environ[CACHE_VARIABLE] = str(folder / "cache")

    def as_one_of_two(scenario: str) -> dict[str, torch.Tensor]:
        return fit(scenario, strategy=DDPStrategy(process_group_backend="gloo"), devices=2)

    torch.save({scenario: as_one_of_two(scenario) for scenario in SCENARIOS}, folder / f"rank{rank}.pt")
