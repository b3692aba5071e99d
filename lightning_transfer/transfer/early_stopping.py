"""Stops a training early, and keeps its count exactly over a resume."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.utilities import rank_zero_info

from lightning_transfer.directions import Direction, decide_direction
from lightning_transfer.errors import UserError
from lightning_transfer.transfer.value_checks import check_amount, check_count


class EarlyStopping(callbacks.EarlyStopping):
    """Stops training as Lightning's ``EarlyStopping`` does, and differs from it in three points after a resume.

    It checks the metric at the end of each validation, so that a checkpoint of that validation holds the result. A
    training that it had stopped does not go on for another epoch when it is resumed. With a larger patience than before
    it does go on.

    Args:
        monitor: The metric.
        mode: Whether the metric is to fall (``min``) or to rise (``max``). It follows from most names, such as loss
            and accuracy. For other names it must be given.
        patience: Validations in a row without an improvement after which training stops.
        min_delta: The least change that counts as an improvement.

    Raises:
        UserError: If a value is out of range, or the direction has to be given. Before the first step, if nothing is
            validated.
    """

    def __init__(
        self, monitor: str = "val/loss", mode: Direction | None = None, patience: int = 10, min_delta: float = 0.0
    ) -> None:
        direction = decide_direction(monitor, mode, "mode of EarlyStopping")
        check_count("patience", patience, least=0)
        check_amount("min_delta", min_delta)
        super().__init__(monitor, min_delta, patience, mode=direction, check_on_train_epoch_end=False)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forgets an earlier fit. A checkpoint's state is loaded after this."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self.wait_count, self.stopping_reason = 0, EarlyStoppingReason.NOT_STOPPED
            self.best_score = torch.tensor(torch.inf if self.mode == "min" else -torch.inf)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with a checkpoint's count and best value, and with the patience of this run."""
        super().load_state_dict(state_dict | {"patience": self.patience})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops before the first step if the checkpoint is from a training that was stopped."""
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
        if not sum(trainer.num_val_batches):
            raise UserError(
                f"early stopping waits for {self.monitor}, and nothing is validated: hold out examples"
                " (data.validation_fraction), or leave it out"
            )
        is_patient = self.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED and self.wait_count < self.patience
        if self.stopping_reason != EarlyStoppingReason.NOT_STOPPED and not is_patient:
            rank_zero_info(f"early stopping had ended the training: {self._reason()}")
            trainer.should_stop = True

    def _reason(self) -> str:
        if self.stopping_reason != EarlyStoppingReason.PATIENCE_EXHAUSTED:
            return str(self.stopping_reason_message)
        return f"{self.monitor} did not improve in {self.wait_count} validations, and patience is {self.patience}"
