"""Prints a line at the end of each epoch, and says how far a training is."""

import math
import time
from dataclasses import dataclass
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar

from lightning_transfer.transfer.applied_learning_rates import applied_learning_rates
from lightning_transfer.transfer.shown_groups import shown_groups, unfreezing_of


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

    def now(self) -> dict[str, float]:
        """Returns ``phase`` and ``phases`` where layer groups thaw, the highest ``lr``, and ``seconds_left``."""
        numbers: dict[str, float] = {}
        unfreezing = unfreezing_of(self._trainer)
        if unfreezing is not None:
            numbers |= {"phase": unfreezing.phase_index + 1, "phases": len(unfreezing.phases)}
        numbers["lr"] = max(applied_learning_rates(self._trainer, self._groups).values(), default=0.0)
        total, taken = self._trainer.estimated_stepping_batches, self._trainer.global_step
        if 0 < total < math.inf and taken > self._first_step:
            seconds = (time.perf_counter() - self._start) / (taken - self._first_step) * (total - taken)
            numbers["seconds_left"] = round(seconds)
        return numbers

    def words(self) -> dict[str, str]:
        """Returns the same as words: ``phase`` as 2/5, ``lr`` in two digits, and ``left`` as 0:01:05."""
        return in_words(self.now())


def in_words(standing: dict[str, float]) -> dict[str, str]:
    """Words what :meth:`Standing.now` returns."""
    words = {"phase": f"{standing['phase']}/{standing['phases']}"} if "phase" in standing else {}
    words["lr"] = f"{standing['lr']:.2g}"
    if "seconds_left" in standing:
        minutes, seconds = divmod(int(standing["seconds_left"]), 60)
        words["left"] = f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
    return words


@dataclass(frozen=True)
class Epoch:
    """What is printed of an epoch that has ended.

    Attributes:
        number: Its number, from 1.
        of: The number of epochs of the training; None where it is not known.
        seconds: How long it took.
        standing: The phase, the learning rate and the time left.
        metrics: What was logged in it.
    """

    number: int
    of: int | None
    seconds: float
    standing: dict[str, float]
    metrics: dict[str, float]


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
        """Shows the epoch. A metric that was not logged in it is left out."""
        if not self._enabled or self._standing is None:
            return
        logged = trainer.callback_metrics
        metrics = {
            name: value
            for name, value in self.get_metrics(trainer, pl_module).items()
            if isinstance(value, float) and (name not in logged or logged[name] is not self._before.get(name))
        }
        of = trainer.max_epochs if (trainer.max_epochs or -1) > 0 else None
        seconds = time.perf_counter() - self._epoch_start
        self.show(trainer, Epoch(trainer.current_epoch + 1, of, seconds, self._standing.now(), metrics))

    def show(self, trainer: L.Trainer, epoch: Epoch) -> None:
        """Prints the line of an epoch."""
        of = f"/{epoch.of}" if epoch.of else ""
        shown = [f"{name} {words}" for name, words in in_words(epoch.standing).items()]
        shown += [f"{name} {value:.4f}" for name, value in epoch.metrics.items()]
        print(f"epoch {epoch.number}{of}  {epoch.seconds:.1f} s  {'  '.join(shown)}", flush=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops the clock."""
        self._standing = None
