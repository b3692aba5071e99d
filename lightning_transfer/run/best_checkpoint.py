"""The best checkpoint of a run."""

from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_transfer.errors import UserError


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``.

    Lightning's ``ModelCheckpoint``, and unlike it: a run that goes on in another folder still knows what was best
    before, and the next validation, however bad, is not the best. A run whose module does not log what is monitored
    ends only when its last checkpoint is saved, and can go on from there.
    """

    _missing: str | None = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with what is best so far, which stays where it is."""
        super().load_state_dict(state_dict | {"dirpath": self.dirpath})

    def _save_topk_checkpoint(self, trainer: L.Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        try:
            super()._save_topk_checkpoint(trainer, monitor_candidates)
        except MisconfigurationException:
            logged = ", ".join(name for name in monitor_candidates if name not in ("epoch", "step"))
            self._missing = (
                f"checkpoint.monitor is {self.monitor}, which {type(trainer.lightning_module).__name__} has not logged:"
                f" choose one of {logged}, with --checkpoint.mode min where less is better"
            )

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Ends a run without a best checkpoint.

        Raises:
            UserError: Where what is monitored has not been logged by the validation before.
        """
        if self._missing is not None:
            raise UserError(self._missing)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ends a run without a best checkpoint, likewise."""
        super().on_train_end(trainer, pl_module)
        if self._missing is not None:
            raise UserError(self._missing)


def best_checkpoint(trainer: L.Trainer) -> BestCheckpoint | None:
    """Finds what keeps the best checkpoint, among others that a config may name; None where none was kept."""
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, BestCheckpoint)]
    return next((callback for callback in callbacks if callback.best_model_path), None)
