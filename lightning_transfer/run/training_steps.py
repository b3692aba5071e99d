"""Counts the steps and examples of a training, skips steps whose gradients are not finite, and ends what diverged."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _NormBase  # the base of norm layers with running statistics
from torch.optim import Optimizer

from lightning_transfer.data.batches import examples_in_step
from lightning_transfer.data.loader import BatchLoader
from lightning_transfer.errors import UserError

MOST_IN_A_ROW = 20  # skipped steps
_ROWS_SAID = 8


class TrainingSteps(L.Callback):
    """Counts examples, and skips each optimizer step whose gradients have no finite norm before clipping.

    One such step would make all weights NaN. On a CPU a skipped step leaves the weights and the optimizer's state as
    they are. On an accelerator its gradients count as zero instead, so that no step waits for the device. Momentum and
    weight decay then go on. Learning rates and the count of steps go on in both cases. In float16 torch's
    ``GradScaler`` skips steps itself, and this callback leaves them to it.

    The number of skipped steps is logged as ``train/skipped_steps`` where it grows. If such a step has made running
    statistics of a norm layer NaN, these begin anew.
    """

    def __init__(self) -> None:
        self.examples = 0  # seen by all processes
        self._last_loss: Tensor | None = None
        self._is_evaluating = False
        # The counts are numbers on a CPU. On an accelerator they are tensors, which only some steps read.
        self._skipped: Any = 0
        self._in_a_row: dict[int, Any] = {}  # by the place of the optimizer
        self._known = 0

    @property
    def skipped(self) -> int:
        """Number of steps skipped so far."""
        return int(self._skipped)

    @property
    def in_a_row(self) -> int:
        """Number of steps skipped since the last one that was taken; the largest one of several optimizers."""
        return max(map(int, self._in_a_row.values()), default=0)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Notes the stage: a fit goes on from saved counts, but a test of its best checkpoint must not."""
        self._is_evaluating = stage != "fit"

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Has gradients clipped only where there are any, because torch's clipping by value raises without one."""
        plugin = trainer.precision_plugin
        plugin.clip_gradients = partial(_clip_any, type(plugin).clip_gradients, plugin)  # type: ignore[method-assign]

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Skips the step if its gradients are not finite.

        Raises:
            UserError: If that persists.
        """
        gradients = [
            grad if type(grad) is Tensor and not grad.is_sparse else _values(grad)
            for group in optimizer.param_groups
            for parameter in group["params"]
            if (grad := parameter.grad) is not None
        ]
        if not gradients or getattr(trainer.precision_plugin, "scaler", None) is not None:
            return
        place = trainer.optimizers.index(optimizer)
        is_divided = isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy)
        if not is_divided and costs_nothing_to_read(gradients[0]) and have_finite_norms(gradients):
            self._in_a_row.pop(place, None)
            return
        skips: Any = has_no_finite_norm(gradients)
        if is_divided:
            # Each rank has other parts of the gradients here. Under DDP all ranks have equal gradients, and decide
            # the same.
            skips = trainer.strategy.reduce(skips.float(), reduce_op="sum") > 0
        is_read = costs_nothing_to_read(skips)
        if is_read:
            skips = bool(skips)
            for group in optimizer.param_groups if skips else []:
                for parameter in group["params"]:
                    parameter.grad = None  # optimizers skip it then
        else:
            for gradient in gradients:
                gradient.masked_fill_(skips, 0)
        self._skipped = self._skipped + skips
        self._in_a_row[place] = (self._in_a_row.get(place, 0) + 1) * skips
        interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if skips if is_read else (trainer.global_step + 1) % interval == 0:
            self._look(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the examples, and keeps the loss unread, because reading it would wait for the device."""
        self.examples += examples_in_step(batch, getattr(trainer, "datamodule", None), trainer.world_size)
        self._last_loss = outputs.get("loss") if isinstance(outputs, dict) else None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reads the counts that no step has read, and checks the loss where there is no validation.

        Raises:
            UserError: If the loss is infinite or not a number.
        """
        self._look(trainer, pl_module)
        if not sum(trainer.num_val_batches):
            self._check_last_loss(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Checks the loss of the last step, which no validation may follow.

        Raises:
            UserError: If it is infinite or not a number.
        """
        self._check_last_loss(trainer)

    def _check_last_loss(self, trainer: L.Trainer) -> None:
        if self.in_a_row != 1:  # the weights are as before a single step that was skipped
            losses = trainer.callback_metrics if self._last_loss is None else {"train/loss": self._last_loss}
            check_is_finite("train/loss", losses, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Returns how many examples were seen, and how many steps were skipped."""
        in_a_row = {place: int(count) for place, count in self._in_a_row.items()}
        return {"examples": self.examples, "skipped": self.skipped, "in_a_row": in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from the saved counts, in a fit."""
        if not self._is_evaluating:
            self.examples = state_dict["examples"]
            self._skipped = self._known = state_dict["skipped"]
            self._in_a_row = dict(state_dict["in_a_row"])

    def _look(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.skipped == self._known:
            return
        step = trainer.global_step
        rows = rows_of_batch(trainer) if self.in_a_row else ""  # else it was an earlier batch
        if not self._known:
            rank_zero_warn(f"the gradients after step {step} are not finite: such steps are skipped, and counted{rows}")
        self._known = self.skipped
        for logger in trainer.loggers:
            logger.log_metrics({"train/skipped_steps": self._known}, step=step)
        restart_statistics(module)
        if self.in_a_row >= MOST_IN_A_ROW:
            raise UserError(
                f"the gradients of {self.in_a_row} steps in a row are not finite after step {step}: the training"
                f" diverged, lower the learning rate or clip gradients (trainer.gradient_clip_val){rows}"
            )


def rows_of_batch(trainer: L.Trainer) -> str:
    """Says which rows of the training set are in the batch of this step; empty where the loader does not know them."""
    loader, number = trainer.train_dataloader, trainer.fit_loop.epoch_loop.batch_idx
    data: Any = getattr(trainer, "datamodule", None)
    if not isinstance(loader, BatchLoader) or getattr(data, "private", False):  # who is in a private batch is secret
        return ""
    rows = loader.batches(trainer.current_epoch)[number]
    if not isinstance(rows, np.ndarray):  # a step of several tasks, each with rows of its own
        return ""
    first, more = np.split(rows, [_ROWS_SAID])
    return f"; its batch has the rows {', '.join(map(str, first))}{f' and {len(more)} more' if len(more) else ''}"


def training_steps(trainer: L.Trainer) -> TrainingSteps:
    """Finds the callback; one without counts where the trainer has none."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, TrainingSteps)), TrainingSteps())


def check_is_finite(loss: str, metrics: Mapping[str, float | Tensor], step: int) -> None:
    """Checks the loss of that name, where it was logged.

    Raises:
        UserError: If it is infinite or not a number after that step.
    """
    value = float(metrics.get(loss, 0.0))
    if not math.isfinite(value):
        raise UserError(
            f"{loss} is {value} after step {step}: the training diverged,"
            " lower the learning rate or clip gradients (trainer.gradient_clip_val)"
        )


def have_finite_norms(gradients: list[Tensor]) -> bool:
    """Says whether the norm of the gradients is finite, for gradients in the CPU's memory.

    Nearly every step on a CPU ends its check here, which takes a third of the time of :func:`has_no_finite_norm`.
    """
    return math.isfinite(sum(map(Tensor.item, torch._foreach_norm(gradients))))


def has_no_finite_norm(gradients: list[Tensor]) -> Tensor:
    """Says whether any gradient is not finite, or so large that its norm is not; bool, on their device."""
    norms = torch._foreach_norm(gradients)
    return ~torch.stack([norm.to(norms[0].device) for norm in norms]).sum().isfinite()


def costs_nothing_to_read(flag: Tensor) -> bool:
    """Says whether the program need not wait for a device to know what the flag says."""
    return flag.device.type == "cpu"


def restart_statistics(module: nn.Module) -> None:
    """Begins running statistics of norm layers anew where they are not finite, as they would stay so for ever."""
    layers = [layer for layer in module.modules() if isinstance(layer, _NormBase)]
    for layer in layers:
        mean, variance = layer.running_mean, layer.running_var
        if mean is not None and variance is not None and not bool((mean.isfinite() & variance.isfinite()).all()):
            layer.reset_running_stats()


def _clip_any(clip: Callable[..., None], plugin: Precision, optimizer: Optimizer, *how: Any, **more: Any) -> None:
    if any(parameter.grad is not None for group in optimizer.param_groups for parameter in group["params"]):
        clip(plugin, optimizer, *how, **more)


def _values(gradient: Tensor | None) -> Tensor:
    """Returns the part of a gradient that this rank has, without the zeros of a sparse one."""
    assert gradient is not None
    local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
    return local._values() if local.is_sparse else local
