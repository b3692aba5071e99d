"""Runs the learning rate range test: it measures the loss while the learning rate grows from step to step."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.utilities.seed import isolate_rng
from torch.optim import Optimizer

from lightning_transfer.errors import UserError
from lightning_transfer.lightning_internals import leave_signals_alone, step_frozen_without_scaler
from lightning_transfer.transfer.freezing import FreezableModule
from lightning_transfer.transfer.learning_rates import decay_factors
from lightning_transfer.transfer.low_rank import adapt_ahead
from lightning_transfer.transfer.resolution import ResolvedSchedule
from lightning_transfer.transfer.shown_groups import unfreezing_of
from lightning_transfer.transfer.unfreezing import ProgressiveUnfreezing

_SMOOTHING = 0.98
_DIVERGENCE = 3.0  # a loss explodes where it exceeds the lowest one by more than this many times its size
_FEWEST_STEPS = 10


@dataclass(frozen=True)
class Curve:
    """Holds what a range test measured.

    Args:
        name: Name of what was trained.
        learning_rates: The highest learning rate of all layer groups at each step.
        losses: The smoothed loss before each of those steps.
        sgd_lr_factor: Muon's ``sgd_lr`` divided by its ``lr``, as both grow together; None for other optimizers.
    """

    name: str
    learning_rates: tuple[float, ...]
    losses: tuple[float, ...]
    sgd_lr_factor: float | None = None

    @property
    def suggestion(self) -> float:
        """Learning rate well inside the valley in which the loss falls."""
        return self.learning_rates[valley(self.losses)]


def valley(losses: Sequence[float]) -> int:
    """Finds the middle of the longest fall of the losses, whose steps need not follow one another.

    Source: the ``valley`` of fastai's learning rate finder (ESRI's method).
    """
    lengths = np.ones(len(losses), int)
    values = np.asarray(losses)
    for place in range(1, len(values)):
        higher = values[:place] > values[place]
        lengths[place] += lengths[:place][higher].max(initial=0)
    end = int(lengths.argmax())
    start = end - int(lengths[end])
    return max(0, start + int((end - start) / 3 * 1.5))


def range_test(
    trainer: L.Trainer,
    model: L.LightningModule,
    datamodule: L.LightningDataModule | None,
    lowest: float,
    highest: float,
    steps: int,
) -> list[Curve]:
    """Trains copies of a model for some steps, while the learning rate grows exponentially.

    With ProgressiveUnfreezing, each phase trains its own layer groups in a copy, from the same weights. Without it,
    there is one copy. The learning rates of layer groups keep their ratios. Schedulers are ignored.

    Args:
        trainer: The trainer, whose hardware, precision, clipping and unfreezing are used. It does not run itself.
        model: The model, which is left as it is.
        datamodule: Its data.
        lowest: The first learning rate.
        highest: The last learning rate. A test ends before it where the loss explodes.
        steps: Number of optimizer steps.

    Returns:
        A curve for each phase, or one without ProgressiveUnfreezing.

    Raises:
        UserError: If a value is out of range, there are several processes, or the loss explodes at once or is missing.
    """
    if not 0 < lowest < highest:
        raise UserError(f"lowest is {lowest} and highest {highest}: expected 0 < lowest < highest")
    if steps < _FEWEST_STEPS:
        raise UserError(f"steps is {steps}: expected {_FEWEST_STEPS} or more")
    if getattr(datamodule, "private", False):
        raise UserError(
            "lr-find trains on examples without counting it, and data.private is true: choose the learning rate by"
            " validation, or on public data"
        )
    if trainer.world_size > 1:
        raise UserError(f"lr-find runs in one process, not {trainer.world_size}: set --trainer.devices 1")
    model = copy.deepcopy(model)
    adapt_ahead(trainer, model)
    unfreezing = unfreezing_of(trainer)
    phases = len(unfreezing.resolve(model).phases) if unfreezing else 1
    curves = []
    for phase in range(phases):
        twin = copy.deepcopy(model)
        resolved = unfreezing.resolve(twin) if unfreezing else None
        test = _RangeTest(unfreezing, resolved, phase, np.geomspace(lowest, highest, steps))
        with isolate_rng():
            _short_trainer(trainer, test, steps).fit(twin, datamodule=datamodule)
        name = f"phase {phase + 1}: {', '.join(resolved.trainable(phase))}" if resolved else "everything"
        if len(test.losses) < _FEWEST_STEPS:
            raise UserError(f"the loss of {name} explodes within {len(test.losses)} steps: set a lower lowest")
        curves.append(Curve(name, tuple(test.rates[: len(test.losses)]), tuple(test.losses), test.sgd_lr_factor))
    return curves


class _RangeTest(L.Callback):
    """Sets the learning rate of each step, and keeps the losses."""

    def __init__(
        self, unfreezing: ProgressiveUnfreezing | None, resolved: ResolvedSchedule | None, phase: int, rates: np.ndarray
    ) -> None:
        self.unfreezing = unfreezing
        self.resolved = resolved
        self.phase = phase
        self.rates: list[float] = rates.tolist()
        self.losses: list[float] = []
        self.sgd_lr_factor: float | None = None
        self._batch_losses: list[float] = []  # since the last step
        self._mean = 0.0
        self._module: FreezableModule | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Freezes what the phase does not train, and takes over the learning rates from the schedulers."""
        if self.unfreezing and self.resolved:
            self._module = FreezableModule(self.resolved.groups, self.unfreezing.eval_norm_layers)
            self._module.set_trainable(self.resolved.trainable(self.phase))
            step_frozen_without_scaler(trainer)
        if not any(optimizer.param_groups for optimizer in trainer.optimizers):
            raise UserError(f"configure_optimizers of {type(pl_module).__name__} gives no optimizer: lr-find needs one")
        trainer.strategy.lr_scheduler_configs = []
        for optimizer in trainer.optimizers:
            optimizer.register_step_pre_hook(self._set(optimizer))
            self.sgd_lr_factor = optimizer.param_groups[0].get("sgd_lr_factor")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keeps frozen layers frozen."""
        if self._module:
            self._module.hold()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the loss of each step, smoothed, and stops once it explodes."""
        if not outputs or "loss" not in outputs:
            raise UserError(
                f"training_step of {type(pl_module).__name__} returns no loss for batch {batch_idx}: lr-find needs that"
                " of every batch, return it"
            )
        self._batch_losses.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)
        if trainer.global_step == len(self.losses):
            return  # gradients are still being accumulated
        loss, self._batch_losses = fmean(self._batch_losses), []
        self._mean = _SMOOTHING * self._mean + (1 - _SMOOTHING) * loss
        smoothed = self._mean / (1 - _SMOOTHING ** (len(self.losses) + 1))
        lowest = min([*self.losses, smoothed])
        if not math.isfinite(loss) or smoothed - lowest > _DIVERGENCE * abs(lowest):
            trainer.should_stop = True
        else:
            self.losses.append(smoothed)

    def _set(self, optimizer: Optimizer) -> Any:
        """Makes a hook that gives each parameter group its share of the step's learning rate."""
        decay = self.unfreezing.lr_decay if self.unfreezing else None
        factors = (
            decay_factors(self.resolved, optimizer, decay) if self.resolved else [1.0] * len(optimizer.param_groups)
        )
        configured = [
            factor * group.get("initial_lr", group["lr"])
            for factor, group in zip(factors, optimizer.param_groups, strict=True)
        ]
        shares = [rate / max(configured) for rate in configured]

        def set_learning_rates(*_: Any) -> None:
            for share, group in zip(shares, optimizer.param_groups, strict=True):
                group["lr"] = share * self.rates[len(self.losses)]

        return set_learning_rates


def _short_trainer(trainer: L.Trainer, test: _RangeTest, steps: int) -> L.Trainer:
    short = L.Trainer(
        accelerator=trainer.strategy.root_device.type,
        devices=1,
        precision=trainer.precision,
        accumulate_grad_batches=trainer.accumulate_grad_batches,
        gradient_clip_val=trainer.gradient_clip_val,
        gradient_clip_algorithm=trainer.gradient_clip_algorithm,
        use_distributed_sampler=False,
        max_epochs=-1,
        max_steps=steps,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        callbacks=[test],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    leave_signals_alone(short)
    return short
