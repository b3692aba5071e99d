"""Pauses the training of a candidate after a share of it, where a study decides which candidates go on."""

import math
from pathlib import Path
from typing import Any

import lightning as L

from lightning_transfer.errors import UserError
from lightning_transfer.files import read_json, write_json
from lightning_transfer.run.best_checkpoint import BestCheckpoint
from lightning_transfer.study.cells import VALIDATED
from lightning_transfer.transfer.schedule import Position
from lightning_transfer.transfer.training_length import training_length


class TrainingPause(L.Callback):
    """Ends a run at its first validation at or after a share of the training, as if it had been asked to stop there.

    The run's last checkpoint goes on from the pause. Nothing but the end depends on the share, neither learning rates
    nor the schedule of an unfreezing. Each validation is noted in the run's folder beforehand, with the metrics of the
    best checkpoint so far. Where none is kept, these are the validation's own.

    Args:
        share: Share of the training, in optimizer steps; in batches where these do not tell the steps.

    Raises:
        UserError: On ``fit``, if the length of the training is not known.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self._is_due = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measures the training."""
        self._is_due = False
        self._lengths = [unit for unit in training_length(trainer).measures if math.isfinite(unit.total_steps)]
        if not self._lengths:
            raise UserError("halving needs the length of the training: set trainer.max_epochs or trainer.max_steps")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Notes the metrics, and whether the pause is due. All ranks count the same steps."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        share, kept = self._passed(trainer), _is_kept(trainer)
        if trainer.is_global_zero:
            _note(trainer, share, kept)
        # Gradients that are being added up are in no checkpoint.
        self._is_due |= share >= self.share and (trainer.is_last_batch or not trainer.fit_loop._should_accumulate())

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Pauses. The last checkpoint has been written after the validation, or at the end of its epoch."""
        if self._is_due:
            raise SystemExit(0)

    def _passed(self, trainer: L.Trainer) -> float:
        now = Position(trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_idx + 1, trainer.global_step)
        return min(1.0, max(unit.passed(now) / unit.total_steps for unit in self._lengths))


def _is_kept(trainer: L.Trainer) -> bool:
    """Says whether the best checkpoint will be that of the validation that has just ended. All ranks have to ask."""
    callbacks = (callback for callback in trainer.checkpoint_callbacks if isinstance(callback, BestCheckpoint))
    best = next((callback for callback in callbacks if callback.monitor and callback.save_top_k), None)
    return best is None or best.check_monitor_top_k(trainer, trainer.callback_metrics.get(str(best.monitor)))


def _note(trainer: L.Trainer, share: float, kept: bool) -> None:
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    monitored = [getattr(callback, "monitor", None) for callback in trainer.checkpoint_callbacks]
    if not all(math.isfinite(logged.get(str(name), 0.0)) for name in ("val/loss", *monitored)):
        return  # the record ends the run for it
    folder = getattr(trainer, "run_folder", None)
    assert folder is not None
    file = Path(folder) / VALIDATED
    noted = read_json(file) if file.exists() else {}
    earlier = [name for name in noted if float(name) < share]
    own = {name: logged[name] for name in logged if name.startswith("val/")}
    write_json(file, noted | {str(share): own if kept or not earlier else noted[max(earlier, key=float)]})
