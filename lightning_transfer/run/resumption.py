"""Checks that a run resumes a checkpoint with the same optimizers."""

from typing import Any

import lightning as L

from lightning_transfer.errors import UserError


class SameOptimizers(L.Callback):
    """Refuses a checkpoint whose optimizers are not those of the config: it would fail in the first step."""

    def __init__(self) -> None:
        self._saved: list[list[dict[str, Any]]] = []

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Notes the parameter groups of the checkpoint's optimizers."""
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
