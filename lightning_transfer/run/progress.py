"""Shows the progress of a training: a bar in a terminal, plain lines in a file."""

import math
import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar

from lightning_transfer.transfer.applied_learning_rates import applied_learning_rates
from lightning_transfer.transfer.shown_groups import shown_groups, unfreezing_of


def progress_bar() -> ProgressBar:
    """Chooses how to show progress: a bar where standard output is a terminal, otherwise a line for each epoch."""
    return TrainingBar() if sys.stdout.isatty() else EpochLines()


class Standing:
    """Says how far a training is: its phase, its learning rate and the time that is left.

    Args:
        trainer: The trainer, at the start of training.
        pl_module: The module that trains.
    """

    def __init__(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._trainer = trainer
        self._groups = shown_groups(trainer, pl_module)
        self._start = time.perf_counter()
        self._first_step = trainer.global_step

    def words(self) -> dict[str, str]:
        """Returns ``phase`` where layer groups thaw, the highest ``lr`` of all groups, and ``left`` where known."""
        words = {}
        unfreezing = unfreezing_of(self._trainer)
        if unfreezing is not None:
            words["phase"] = f"{unfreezing.phase_index + 1}/{len(unfreezing.phases)}"
        words["lr"] = f"{max(applied_learning_rates(self._trainer, self._groups).values(), default=0):.2g}"
        total, taken = self._trainer.estimated_stepping_batches, self._trainer.global_step
        if 0 < total < math.inf and taken > self._first_step:
            seconds = (time.perf_counter() - self._start) / (taken - self._first_step) * (total - taken)
            minutes = round(seconds) // 60
            words["left"] = f"{minutes // 60}:{minutes % 60:02}:{round(seconds) % 60:02}"
        return words


class TrainingBar(RichProgressBar):
    """Shows a bar for each epoch, with the phase, the learning rate, the time left of the training, and metrics."""

    _seconds_between_updates = 0.25  # an update at every step would cost as much as a small network's step

    def __init__(self) -> None:
        super().__init__(refresh_rate=4)
        self._standing: Standing | None = None
        self._updated = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self._standing = Standing(trainer, pl_module)
        super().on_train_start(trainer, pl_module)

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
        super().on_train_end(trainer, pl_module)
        self._standing = None

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Returns the phase, the learning rate and the time left, and then the metrics."""
        metrics = {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}
        return {**(self._standing.words() if self._standing else {}), **metrics}


class EpochLines(ProgressBar):
    """Prints a line at the end of each epoch: its number and seconds, the phase, the learning rate and the metrics."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._before: dict[str, Any] = {}  # the metrics of earlier epochs
        self._epoch_start = 0.0
        self._standing: Standing | None = None

    def disable(self) -> None:
        """Stops printing. Lightning calls it on all ranks but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Prints again."""
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock, also where a resumed run begins in mid-epoch."""
        self._standing = Standing(trainer, pl_module)
        self._epoch_start = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock, and notes the metrics that have been logged before this epoch."""
        self._epoch_start = time.perf_counter()
        self._before = dict(trainer.callback_metrics)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prints the line."""
        if not self._enabled or self._standing is None:
            return
        logged = trainer.callback_metrics
        metrics = self.get_metrics(trainer, pl_module)
        shown = [f"{name} {words}" for name, words in self._standing.words().items()]
        shown += [
            f"{name} {value:.4f}"
            for name, value in metrics.items()
            if isinstance(value, float) and (name not in logged or logged[name] is not self._before.get(name))
        ]
        seconds = time.perf_counter() - self._epoch_start
        of = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        print(f"epoch {trainer.current_epoch + 1}{of}  {seconds:.1f} s  {'  '.join(shown)}", flush=True)

    def on_train_end(self, *_: Any) -> None:
        """Stops the clock."""
        self._standing = None
