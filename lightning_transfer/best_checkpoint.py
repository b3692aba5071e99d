"""The best checkpoint of a run."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``.

    Lightning's ``ModelCheckpoint``, and unlike it: a run that goes on in another folder still knows what was best
    before, and the next validation, however bad, is not the best.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with what is best so far, which stays where it is."""
        super().load_state_dict(state_dict | {"dirpath": self.dirpath})


def best_checkpoint(trainer: L.Trainer) -> BestCheckpoint | None:
    """Finds what keeps the best checkpoint, among others that a config may name; None where none was kept."""
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, BestCheckpoint)]
    return next((callback for callback in callbacks if callback.best_model_path), None)
