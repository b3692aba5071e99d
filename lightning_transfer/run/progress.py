"""Shows the progress of a training: a bar in a terminal, the important epochs in a file, each epoch on request."""

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar

from lightning_transfer.run.epoch_lines import EpochLines, Standing
from lightning_transfer.run.epoch_table import EpochObjects, EpochTable
from lightning_transfer.run.verbosity import verbosity


def progress_bar() -> ProgressBar:
    """Chooses how to show progress: by the epochs, and below them a bar where standard output is a terminal."""
    epochs = {"verbose": EpochLines, "json": EpochObjects}.get(verbosity(), EpochTable)()
    return TrainingBar(epochs) if sys.stdout.isatty() else epochs


class TrainingBar(RichProgressBar):
    """Shows a bar for each epoch, with the phase, the learning rate, the time left of the training, and metrics.

    Args:
        epochs: What prints the epochs above the bar.
    """

    _seconds_between_updates = 0.25  # an update at every step would cost as much as a small network's step

    def __init__(self, epochs: EpochLines) -> None:
        super().__init__(refresh_rate=4)
        self._epochs = epochs
        self._standing: Standing | None = None
        self._updated = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self._standing = Standing(trainer, pl_module)
        self._epochs.on_train_start(trainer, pl_module)
        super().on_train_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the bar of an epoch."""
        self._epochs.on_train_epoch_start(trainer, pl_module)
        super().on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prints the epoch above the bar, if it is one that is printed."""
        super().on_train_epoch_end(trainer, pl_module)
        self._epochs.on_train_epoch_end(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar, a few times a second."""
        now = time.perf_counter()
        if now - self._updated >= self._seconds_between_updates or trainer.is_last_batch:
            self._updated = now
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops the clock."""
        self._epochs.on_train_end(trainer, pl_module)
        super().on_train_end(trainer, pl_module)
        self._standing = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leaves the last epoch above the bar."""
        self._epochs.on_exception(trainer, pl_module, exception)
        super().on_exception(trainer, pl_module, exception)

    def disable(self) -> None:
        """Shows nothing. Lightning calls it on all ranks but the first."""
        super().disable()
        self._epochs.disable()

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Returns the phase, the learning rate and the time left, and then the metrics."""
        metrics = {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}
        return {**(self._standing.words() if self._standing else {}), **metrics}
