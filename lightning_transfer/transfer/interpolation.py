"""Interpolates between the weights before and after a fine-tuning, and chooses how far by validation: WiSE-FT."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from lightning_transfer.directions import Direction, decide_direction
from lightning_transfer.errors import UserError
from lightning_transfer.transfer.plateau import validate
from lightning_transfer.transfer.shown_groups import names_below_head
from lightning_transfer.transfer.starting_point import KeptStart

Weights = dict[str, Tensor]


class WeightInterpolation(KeptStart):
    """Ends a fit with weights between its start and its end, which it chooses by validation.

    The start is what the module was before a layer below the head trained. Where a schedule trains the head first, it
    is thus a linear probe. At the end of the last epoch each coefficient's weights are validated. Those with the best
    value stay in the module, and are validated and saved as the end of any training is. The start is in every
    checkpoint. With an average of the weights, the end is the average.

    Args:
        coefficients: Shares of the end: 0 is the start, 1 the end. A single one needs no validation.
        monitor: The metric to choose by; that of the best checkpoint if not given. Of equal values, the largest
            coefficient is taken.
        mode: Whether the metric is to fall (``min``) or to rise (``max``), where its name does not say.

    Attributes:
        outcome: The chosen ``coefficient``, and the metric's ``values`` by coefficient, once training has ended.

    Raises:
        UserError: If a coefficient is out of range. On ``fit``, before the first step, if nothing is validated, no
            metric is known, the network has no layers below its head, or the strategy divides the weights over the
            ranks; and where an ``EarlyStopping`` of Lightning decides later. After the first validation, if the metric
            is not logged.

    Source:
        WiSE-FT: Wortsman et al., Robust fine-tuning of zero-shot models, 2022. There the start has a zero-shot head.
    """

    def __init__(
        self,
        coefficients: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
        monitor: str | None = None,
        mode: Direction | None = None,
    ) -> None:
        if not coefficients or not all(0 <= coefficient <= 1 for coefficient in coefficients):
            raise UserError(f"coefficients is {[*coefficients]}: expected numbers from 0, the start, to 1, the end")
        self.coefficients = sorted(set(coefficients))
        self.monitor, self.mode = monitor, mode
        self._reset()

    def _reset(self) -> None:
        self._start = {}
        self._buffers: Weights = {}
        self._names: dict[int, str] = {}
        self._metric: tuple[str, Direction] | None = None
        self._validated_step = -1
        self.outcome: dict[str, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forgets an earlier fit. A checkpoint's start is loaded after this."""
        super().setup(trainer, pl_module, stage)
        self._is_fit = stage == "fit"
        if self._is_fit:
            self._reset()

    def state_dict(self) -> dict[str, Any]:
        """Returns the weights to start from, and what was chosen, as the last checkpoint is saved after that."""
        return super().state_dict() | {"outcome": self.outcome}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a checkpoint in a fit, also from one of an earlier version."""
        if self._is_fit:
            super().load_state_dict(state_dict)
            self.outcome = state_dict.get("outcome", {})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks that a coefficient can be chosen, and finds the layers below the head."""
        self._names = names_below_head(trainer, pl_module)
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(callback, EarlyStopping) and _decides_late(callback) for callback in callbacks):
            raise UserError(
                "EarlyStopping of Lightning ends the training after WeightInterpolation has had its turn: expected"
                " lightning_transfer.EarlyStopping, or check_on_train_epoch_end=False"
            )
        if len(self.coefficients) == 1:
            return
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
        if not any(trainer.num_val_batches):
            raise UserError(
                "WeightInterpolation chooses its coefficient by validation, and nothing is validated: hold out examples"
                " (data.validation_fraction), or give one coefficient"
            )
        saved = next(
            (callback for callback in trainer.checkpoint_callbacks if getattr(callback, "monitor", None)), None
        )
        monitor = self.monitor or getattr(saved, "monitor", None)
        if monitor is None:
            raise UserError("WeightInterpolation has no monitor: expected the metric of validation to choose by")
        mode = self.mode or (getattr(saved, "mode", None) if self.monitor is None else None)
        self._metric = monitor, decide_direction(monitor, mode, "mode of WeightInterpolation")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the statistics of norm layers as they are before a step, whose forward pass moves them."""
        if not self._start and batch_idx % trainer.accumulate_grad_batches == 0:
            self._buffers = {name: buffer.clone() for name, buffer in pl_module.named_buffers()}

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Keeps the weights as they are before a layer below the head first trains."""
        if self._start:
            return
        held = (parameter for group in optimizer.param_groups for parameter in group["params"])
        if any(parameter.grad is not None and id(parameter) in self._names for parameter in held):
            state = pl_module.state_dict()
            self._start = _copy(state) | {name: value for name, value in self._buffers.items() if name in state}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Chooses a coefficient after the last epoch, and leaves its weights in the module."""
        if not _is_last_epoch(trainer):
            return
        if not self._start:
            rank_zero_info(
                "WeightInterpolation: nothing below the head has trained, so there is nothing to interpolate"
            )
            return
        holder = _holder(trainer, pl_module)
        trains, end = _copy(pl_module.state_dict()), _copy(holder.state_dict())
        values = {}
        for coefficient in self.coefficients:
            pl_module.load_state_dict(interpolate(self._start, end, coefficient))
            values[coefficient] = self._value(trainer)
        pl_module.load_state_dict(trains)
        known = {coefficient: value for coefficient, value in values.items() if math.isfinite(value)} or {1.0: math.nan}
        chosen = max(known, key=lambda coefficient: (known[coefficient], coefficient))
        holder.load_state_dict(interpolate(self._start, end, chosen))
        self._report(chosen, values)
        if chosen < 1 or self._validated_step != trainer.global_step:
            for callback in trainer.checkpoint_callbacks:
                # Lightning saves once after a step, and other weights may have been saved after this one, in mid-epoch.
                # Without this private member, the weights are those of the module alone then.
                callback._last_global_step_saved = -1  # type: ignore[attr-defined]
            if any(trainer.num_val_batches):
                validate(trainer)  # so that the best checkpoint may be this one, and its metrics are these weights'

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes what is validated, and that the metric is logged.

        Raises:
            UserError: If it is not.
        """
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._validated_step = trainer.global_step
            if self._metric:
                _require_logged(trainer, self._metric[0])

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Says so where a later callback has ended the training, after the choice would have been made."""
        if self._start and not self.outcome:
            rank_zero_warn(
                "WeightInterpolation has chosen no coefficient, as a callback after it ended the training: put it last"
                " in trainer.callbacks"
            )

    def _value(self, trainer: pl.Trainer) -> float:
        """Validates what the module holds, unseen by other callbacks. The higher the value, the better."""
        if self._metric is None:
            return 0.0
        name, mode = self._metric
        with _alone(trainer):
            validate(trainer)
        _require_logged(trainer, name)
        value: float = trainer.strategy.broadcast(float(trainer.callback_metrics[name]))  # all ranks choose alike
        return value if mode == "max" else -value

    def _report(self, chosen: float, values: dict[float, float]) -> None:
        name, mode = self._metric or ("", "max")
        measured = {f"{c:g}": value if mode == "max" else -value for c, value in values.items()} if name else {}
        self.outcome = {"coefficient": chosen, "monitor": name or None, "values": measured}
        listed = ", ".join(f"{value:.4f} at {coefficient}" for coefficient, value in measured.items())
        rank_zero_info(f"Weights at {chosen:g} between start and end{f'; {name}: {listed}' if listed else ''}")


def _require_logged(trainer: pl.Trainer, name: str) -> None:
    if name not in trainer.callback_metrics:
        logged = ", ".join(trainer.callback_metrics)
        raise UserError(f"monitor is {name}, which validation does not log: expected one of {logged}")


def interpolation_of(trainer: pl.Trainer) -> dict[str, Any] | None:
    """Returns what was chosen at the end of a training; None without a choice."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    outcomes = [callback.outcome for callback in callbacks if isinstance(callback, WeightInterpolation)]
    return next(iter(outcomes), None) or None


def interpolate(start: Weights, end: Weights, coefficient: float) -> Weights:
    """Returns weights between two states of one module. At 0 and 1 they are the start and the end, to the last bit.

    Args:
        start: The state at 0, by names.
        end: The state at 1, of the same names. Whole numbers, such as counters, are taken from it.
        coefficient: Share of the end, from 0 to 1.
    """
    if coefficient == 0:
        return start
    return {
        name: torch.lerp(start[name].to(value.device), value, coefficient) if value.is_floating_point() else value
        for name, value in end.items()
    }


def _copy(state: Weights) -> Weights:
    return {name: value.clone() for name, value in state.items()}


def _holder(trainer: pl.Trainer, pl_module: pl.LightningModule) -> torch.nn.Module:
    """Returns the module whose weights are validated and saved: the average of the weights, where there is one."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    averages = [c._average_model.module for c in callbacks if isinstance(c, WeightAveraging) and c._average_model]
    return averages[0] if averages else pl_module


@contextmanager
def _alone(trainer: pl.Trainer) -> Iterator[None]:
    """Sets callbacks and loggers aside, which would count, draw and write what only serves a choice."""
    callbacks, loggers = trainer.callbacks, trainer.loggers  # type: ignore[attr-defined]
    trainer.callbacks, trainer.loggers = [], []  # type: ignore[attr-defined]
    try:
        yield
    finally:
        trainer.callbacks, trainer.loggers = callbacks, loggers  # type: ignore[attr-defined]


def _decides_late(callback: EarlyStopping) -> bool:
    """Says whether it stops after all other callbacks have seen the end of an epoch, by a private member."""
    return bool(getattr(callback, "_check_on_train_epoch_end", False))  # without it, the warning at the end is left


def _is_last_epoch(trainer: pl.Trainer) -> bool:
    """Says at the end of an epoch whether the training ends with it."""
    loop = trainer.fit_loop
    has_all_epochs = loop.max_epochs not in (None, -1) and trainer.current_epoch + 1 >= loop.max_epochs
    has_all_steps = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    return has_all_epochs or has_all_steps or bool(trainer.should_stop and loop._can_stop_early)
