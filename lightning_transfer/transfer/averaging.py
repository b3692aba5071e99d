"""Keeps an exponential moving average of the weights, which is validated, tested and saved in place of the weights."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lightning_transfer.errors import UserError
from lightning_transfer.lightning_internals import divides_weights


class ExponentialMovingAverage(WeightAveraging):
    """Averages the weights over the optimizer steps. The average is validated, saved, and left in the model by the fit.

    A checkpoint's ``state_dict`` holds the average, so everything that reads one uses it. The weights that train are
    saved beside it, and a resumed run goes on with both. Running statistics of norm layers are averaged too.

    It differs from Lightning's ``EMAWeightAveraging`` in five points. A test after the fit tests the average, not the
    last weights that trained. Weights that do not change, as in a frozen backbone, stay equal to the last bit. A
    checkpoint that a signal writes in mid-validation is like any other. The average is kept on the model's device. The
    decay grows from 0.1, so that a short training is not averaged with its own beginning.

    Args:
        decay: Share of the average that each step keeps, from 0 to below 1. After n steps it is at most
            (1 + n) / (10 + n).

    Raises:
        UserError: If the decay is out of range. On ``fit``, if the strategy divides the weights over the ranks, or a
            checkpoint is to have the weights only.

    Source:
        Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992. The growing decay is that of
        TensorFlow's ``ExponentialMovingAverage``.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"decay is {decay}: expected at least 0 and below 1")
        super().__init__(multi_avg_fn=self._move_averages)
        self._decay = decay
        self._is_swapped = False  # whether the module holds the average, and the average model the weights that train

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Copies the module, and forgets an earlier fit. A checkpoint's state is loaded after this."""
        if stage == "fit" and divides_weights(trainer):
            name = type(trainer.strategy).__name__
            raise UserError(f"ExponentialMovingAverage does not go with {name}, which divides the weights")
        if stage == "fit" and any(getattr(saved, "save_weights_only", False) for saved in trainer.checkpoint_callbacks):
            raise UserError(
                "save_weights_only is true: expected false with ExponentialMovingAverage, as such a checkpoint would"
                " have the weights that train and not the average"
            )
        super().setup(trainer, pl_module, stage)
        self._latest_update_step = trainer.global_step

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Moves the average to the module's device. In ``setup`` the module is not there yet."""
        assert self._average_model is not None
        # The count of the steps stays on the CPU: reading it from a device would make the host wait in every step.
        self._average_model.module.to(pl_module.device)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves the average in the module."""
        self._swap_models(pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Saves the average as the model, and the weights that train beside it, whichever the module holds now."""
        if self._average_model is not None:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)
            if self._is_swapped:
                average = checkpoint["current_model_state"]
                checkpoint["current_model_state"] = checkpoint["state_dict"]
                checkpoint["state_dict"] = average

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Goes on from a checkpoint in ``fit``. Any other stage has loaded the average already."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Puts the weights that train back into the module if a validation failed."""
        if self._is_swapped:
            self._swap_models(pl_module)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Drops the average, so that no later validation uses it for other weights."""
        self._average_model, self._is_swapped = None, False

    def _swap_models(self, pl_module: pl.LightningModule) -> None:
        super()._swap_models(pl_module)
        self._is_swapped = not self._is_swapped

    @torch.no_grad()
    def _move_averages(self, averages: list[Tensor], weights: list[Tensor], _: Tensor | int) -> None:
        """Moves the averages of one data type towards the weights, in place."""
        assert self._average_model is not None
        if averages[0].is_floating_point():
            steps = int(self._average_model.n_averaged)
            decay = min(self._decay, (1 + steps) / (10 + steps))
            weights = [weight.to(average.dtype) for average, weight in zip(averages, weights, strict=True)]
            torch._foreach_lerp_(averages, weights, 1 - decay)  # exact where both are equal, unlike a weighted sum
        else:
            torch._foreach_copy_(averages, weights)  # counters
