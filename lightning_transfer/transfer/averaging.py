"""The exponential moving average of the weights: what is validated, chosen by, tested and kept."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lightning_transfer.errors import UserError


class ExponentialMovingAverage(WeightAveraging):
    """Averages the weights over the optimizer steps; the average is validated, saved as the model, and what fit leaves.

    A checkpoint's ``state_dict`` holds the average, so everything that reads one uses it; the weights that train are
    beside it, and a resumed run goes on with both. Running statistics of norm layers are averaged too.

    Lightning's ``EMAWeightAveraging``, and unlike it: a test after the fit tests the average and not the last weights
    that trained; weights that do not change, a frozen backbone's, stay what they are to the last bit; a checkpoint
    that a signal writes in mid-validation is no different from others; the average is kept on the model's device; and
    the decay grows from 0.1, so that a short training is not averaged with its own beginning.

    Args:
        decay: Share of the average that each step keeps, from 0 to below 1. After n steps it is at most
            (1 + n) / (10 + n).

    Raises:
        UserError: For a decay out of range; on ``fit``, with a strategy that divides the weights over the ranks.

    Source:
        Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992. The growing decay is that of
        TensorFlow's ``ExponentialMovingAverage``.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"decay is {decay}: expected at least 0 and below 1")
        super().__init__(multi_avg_fn=self._move_averages)
        self._decay = decay
        self._is_swapped = False  # whether the module holds the average, and the average model what trains

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Copy the module, and forget an earlier fit; a checkpoint's state is loaded after this."""
        if stage == "fit" and isinstance(trainer.strategy, ModelParallelStrategy):
            name = type(trainer.strategy).__name__
            raise UserError(f"ExponentialMovingAverage does not go with {name}, which divides the weights")
        super().setup(trainer, pl_module, stage)
        self._latest_update_step = trainer.global_step

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Follow the module to its device, on which it was not yet in ``setup``."""
        assert self._average_model is not None
        # Not its count of the steps: to read that from a device makes the host wait in every step.
        self._average_model.module.to(pl_module.device)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average in the module."""
        self._swap_models(pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the average as the model, and what trains beside it, wherever each of them is now."""
        if self._average_model is not None:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)
            if self._is_swapped:
                average = checkpoint["current_model_state"]
                checkpoint["current_model_state"] = checkpoint["state_dict"]
                checkpoint["state_dict"] = average

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on from a checkpoint in ``fit``; all else has loaded the average already."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Put back what trains, if validation failed."""
        if self._is_swapped:
            self._swap_models(pl_module)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Drop the average, so that no later validation takes it for that of its weights."""
        self._average_model, self._is_swapped = None, False

    def _swap_models(self, pl_module: pl.LightningModule) -> None:
        super()._swap_models(pl_module)
        self._is_swapped = not self._is_swapped

    @torch.no_grad()
    def _move_averages(self, averages: list[Tensor], weights: list[Tensor], _: Tensor | int) -> None:
        """Move the averages of one data type towards the weights, in place."""
        assert self._average_model is not None
        if averages[0].is_floating_point():
            steps = int(self._average_model.n_averaged)
            decay = min(self._decay, (1 + steps) / (10 + steps))
            weights = [weight.to(average.dtype) for average, weight in zip(averages, weights, strict=True)]
            torch._foreach_lerp_(averages, weights, 1 - decay)  # unlike a weighted sum, exact where both are equal
        else:
            torch._foreach_copy_(averages, weights)  # counters
