"""Logs scalars of the training for each layer group, and arranges a tab of charts that shows them."""

import math
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor
from torch.optim import Optimizer

from lightning_transfer.dashboards.events import add_scalars, boards_of, has_boards
from lightning_transfer.data.batches import examples_in
from lightning_transfer.errors import UserError
from lightning_transfer.lightning_internals import logged_step
from lightning_transfer.networks.layer_groups import LayerGroup
from lightning_transfer.transfer.applied_learning_rates import applied_learning_rates
from lightning_transfer.transfer.shown_groups import shown_groups, trainable_names

# Layout of the Custom Scalars tab: section -> chart -> regular expressions of tags.
LAYOUT = {
    "Learning": {
        "loss": ["Multiline", ["^train/loss$", "^val/loss$"]],
        "accuracy": ["Multiline", ["^train/accuracy$", "^val/accuracy$"]],
    },
    "Layer groups": {
        "learning rate (0 while frozen)": ["Multiline", ["^lr/"]],
        "gradient norm, before clipping": ["Multiline", ["^gradient_norm/"]],
        "update of the weights / weights": ["Multiline", ["^update_ratio/"]],
        "share of parameters that train": ["Multiline", ["^phase/trainable_share$"]],
    },
    "Speed": {
        "examples per second": ["Multiline", ["^speed/examples_per_second$"]],
        "seconds per step": ["Multiline", ["^speed/step_seconds$"]],
        "share of the time between steps": ["Multiline", ["^speed/data_wait_share$"]],
        "peak memory in GiB": ["Multiline", ["^speed/peak_memory_gib$"]],
    },
}
_MOST_VALUES = 65_536  # the update ratio takes so many values of each tensor, evenly spaced, to bound its memory


class TrainingScalars(L.Callback):
    """Logs at intervals what happens in each layer group, and how fast the training is.

    ``lr/<group>`` is the learning rate that the optimizer step used, and ``gradient_norm/<group>`` is the norm before
    clipping. ``update_ratio/<group>`` is the norm of one step's change of the weights over their norm; about 0.001 is
    usual. ``phase/trainable_share`` is the share of the parameters that train. Three values are means since the last
    sample: ``speed/examples_per_second`` over all processes, ``speed/step_seconds`` and ``speed/data_wait_share``. The
    last is the share of the time between two steps, which waits for data, moves it and augments it.
    ``speed/peak_memory_gib`` is the peak of the device that uses most; on a CPU, it is that of the process.

    Args:
        every_n_steps: Number of steps from one sample to the next. The first step is always sampled.

    Raises:
        UserError: For fewer than 1 step.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        if every_n_steps < 1:
            raise UserError(f"dashboards.every_n_steps is {every_n_steps}: expected 1 or more")
        self.every_n_steps = every_n_steps
        self._groups: dict[str, LayerGroup] = {}
        self._is_sampled = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Finds the layer groups and arranges the charts."""
        if not has_boards(trainer):
            return
        self._groups = shown_groups(trainer, pl_module)
        # Sharded parameters would have to be gathered for their norms.
        self._sees_weights = isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy)
        self._parameters = sum(parameter.numel() for parameter in pl_module.parameters())
        self._speed = _Speed()
        self._samples: dict[str, Tensor] = {}
        self._learning_rates: dict[str, float] = {}
        self._before: dict[str, list[Tensor]] = {}
        writer = boards_of(trainer)
        if writer is not None:
            writer.add_custom_scalars(LAYOUT)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Decides whether this step is sampled."""
        if self._groups:
            step = logged_step(trainer)
            self._is_sampled = step == 0 or (step + 1) % self.every_n_steps == 0
            self._speed.begin_step()

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Measures gradients in a sampled step, and keeps weights to compare with."""
        if not self._is_sampled or not self._groups:
            return
        self._learning_rates = applied_learning_rates(trainer, self._groups)
        if not self._sees_weights:
            return
        self._before = {}
        for name in trainable_names(self._groups):
            parameters = list(self._groups[name].parameters.values())
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            if gradients:
                self._samples[f"gradient_norm/{name}"] = _norm(gradients)
                self._before[name] = [_part(parameter).clone() for parameter in parameters]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes a sample once the optimizer has stepped."""
        if not self._groups:
            return
        self._speed.end_step(examples_in(batch) * trainer.world_size)
        if not self._is_sampled or not self._learning_rates:  # gradients are still being accumulated
            return
        for name, before in (self._before if self._samples else {}).items():
            after = [_part(parameter) for parameter in self._groups[name].parameters.values()]
            ratio = _norm(torch._foreach_sub(after, before)) / _norm(before).clamp(min=1e-12)
            self._samples[f"update_ratio/{name}"] = ratio
        self._write(trainer)
        self._samples, self._before, self._learning_rates = {}, {}, {}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Drops the layer groups."""
        self._groups = {}

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops the clock, because validation does not count as waiting for data."""
        if self._groups:
            self._speed.pause()

    def _write(self, trainer: L.Trainer) -> None:
        memory = torch.tensor(peak_memory_gib(trainer.strategy.root_device), device=trainer.strategy.root_device)
        memory = trainer.strategy.reduce(memory, reduce_op="max")
        writer = boards_of(trainer)
        if writer is None:
            return
        values = {f"lr/{name}": rate for name, rate in self._learning_rates.items()}
        trained = sum(
            p.numel() for name in trainable_names(self._groups) for p in self._groups[name].parameters.values()
        )
        values["phase/trainable_share"] = trained / self._parameters
        values |= self._speed.means_and_reset()
        values["speed/peak_memory_gib"] = float(memory)
        if self._samples:
            # This waits for the device once, and not for each value.
            values |= dict(zip(self._samples, torch.stack(list(self._samples.values())).tolist(), strict=True))
        add_scalars(writer, {tag: value for tag, value in values.items() if math.isfinite(value)}, logged_step(trainer))


class _Speed:
    """Adds up examples, the time within steps and the time between them, without the time of validation."""

    def __init__(self) -> None:
        self._step_start = 0.0
        self._step_end: float | None = None
        self._reset()

    def _reset(self) -> None:
        self._steps = self._examples = 0
        self._within = self._between = 0.0

    def begin_step(self) -> None:
        self._step_start = time.perf_counter()
        if self._step_end is not None:
            self._between += self._step_start - self._step_end

    def end_step(self, examples: int) -> None:
        self._step_end = time.perf_counter()
        self._within += self._step_end - self._step_start
        self._steps += 1
        self._examples += examples

    def pause(self) -> None:
        self._step_end = None

    def means_and_reset(self) -> dict[str, float]:
        seconds = self._within + self._between
        means = {
            "speed/examples_per_second": self._examples / seconds,
            "speed/step_seconds": seconds / self._steps,
            "speed/data_wait_share": self._between / seconds,
        }
        self._reset()
        return means


def peak_memory_gib(device: torch.device) -> float:
    """Returns the peak memory in GiB: of tensors on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))).float())
    return norm


def _part(parameter: Tensor) -> Tensor:
    flat = parameter.detach().view(-1) if parameter.is_contiguous() else parameter.detach().flatten()
    return flat[:: math.ceil(flat.numel() / _MOST_VALUES)]
