"""Checks that a run can go on from a checkpoint, and that there was something to train."""

from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from lightning_transfer.errors import UserError


class Resumption(L.Callback):
    """Refuses a checkpoint whose optimizers are not those of the config: it would fail in the first step.

    A fit that goes on from a checkpoint and makes no step says so, and one whose data gives no batches is refused.
    Otherwise both would end as one that has learned.
    """

    def __init__(self) -> None:
        self._saved: list[list[dict[str, Any]]] = []
        self._step: int | None = None  # that of the checkpoint

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Notes the step of the checkpoint, and the parameter groups of its optimizers."""
        self._step = checkpoint.get("global_step")
        self._saved = [state["param_groups"] for state in checkpoint.get("optimizer_states", [])]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compares them with those of the config, whose optimizers have been built and not yet loaded.

        Raises:
            UserError: If the number or sizes of the parameter groups differ, or the settings are another optimizer's.
        """
        for optimizer, saved in zip(trainer.optimizers, self._saved, strict=False):
            sizes = [len(group["params"]) for group in optimizer.param_groups]
            saved_sizes = [len(group["params"]) for group in saved]
            if sizes != saved_sizes:
                raise UserError(
                    f"the checkpoint's optimizer has parameter groups of {saved_sizes} weights, the config's of"
                    f" {sizes}: go on with the config that the checkpoint was written with, or start by --init_from"
                )
            own, other = set(optimizer.param_groups[0]), set(saved[0])
            if own - other and other - own:  # a newer torch may know more settings of the same optimizer
                raise UserError(
                    f"the checkpoint's optimizer has {', '.join(sorted(other - own))}, and {type(optimizer).__name__}"
                    f" has {', '.join(sorted(own - other))}: go on with the checkpoint's, or start by --init_from"
                )

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Says where the checkpoint was at the end of the training already.

        Raises:
            UserError: If the data has given no batches.
        """
        if trainer.num_training_batches == 0 and trainer.limit_train_batches:
            raise UserError("the data gives no training batches, and nothing was trained: expected one or more")
        if self._step == trainer.global_step:
            rank_zero_warn(f"nothing was trained: the checkpoint is of step {self._step}, {_end_of(trainer)}")


def _end_of(trainer: L.Trainer) -> str:
    if trainer.should_stop:
        return "where a callback, such as EarlyStopping, had ended the training"
    lengths = f"trainer.max_epochs {trainer.max_epochs} and trainer.max_steps {trainer.max_steps}"
    return f"at the end of {lengths}; raise trainer.max_epochs to go on"
