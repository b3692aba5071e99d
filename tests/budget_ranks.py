"""Trains on two ranks with budgets that would decide otherwise; :mod:`test_dashboard_budget` starts it."""

import os
import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_transfer import Classifier, DemoImages, SeedCNN
from lightning_transfer.dashboards import settings
from lightning_transfer.dashboards.budget import Budget


class Noting(Budget):
    """Notes what is decided. A step takes the first rank two seconds, and the other so long that all is afforded."""

    decisions: list[tuple[str, bool]] = []  # noqa: RUF012

    def __init__(self, share: float | None) -> None:
        self._step_seconds = 2.0 if os.environ["LOCAL_RANK"] == "0" else 1e6
        self._trainer = None
        super().__init__(share, self.look)

    def look(self) -> np.ndarray:
        """Gives the seconds that all steps so far took."""
        return np.array([0.0 if self._trainer is None else self._step_seconds * self._trainer.global_step])

    def _decide(self, kind: str, *more: Any) -> bool:
        is_drawn = super()._decide(kind, *more)
        self.decisions.append((kind, is_drawn))
        return is_drawn


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    settings.Budget = Noting  # type: ignore[misc]
    L.seed_everything(0)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=3,
        callbacks=settings.Dashboards().callbacks({}, ""),
        logger=TensorBoardLogger(folder, "", ""),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(Classifier(SeedCNN(10), 10), datamodule=DemoImages(examples_per_class=12, batch_size=10))
    torch.save({"decisions": Noting.decisions}, folder / f"rank{os.environ['LOCAL_RANK']}.pt")
