"""Shows the layer groups as they train: scalars at intervals, and the timeline of their unfreezing."""

import math
import time
from dataclasses import asdict
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_transfer.dashboards.budget import Budget
from lightning_transfer.dashboards.events import add_data, add_picture, add_scalars, boards_of, has_boards
from lightning_transfer.dashboards.measures import layout, norm_of, part_of, peak_memory_gib
from lightning_transfer.data.batches import examples_in_step
from lightning_transfer.errors import UserError
from lightning_transfer.lightning_internals import gradient_scale, logged_step, rest_hook, wake_hook
from lightning_transfer.networks.layer_groups import LayerGroup
from lightning_transfer.report.drawing import PixelCanvas
from lightning_transfer.report.figures import Timeline, thinned
from lightning_transfer.transfer.applied_learning_rates import applied_learning_rates
from lightning_transfer.transfer.shown_groups import shown_groups, trainable_names

_MOST_RATES = 128  # the figure is too narrow to show more samples of the learning rates
_DRAWN_PHASES = 8  # after so many, the timeline is drawn again only where their number has doubled, and at the end
_STRIDE = 10  # minimum number of steps from one sample of the learning rates to the next


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
        budget: Counts the seconds of samples; None where nobody asks.

    Raises:
        UserError: For fewer than 1 step.
    """

    def __init__(self, every_n_steps: int = 50, budget: Budget | None = None) -> None:
        if every_n_steps < 1:
            raise UserError(f"dashboards.every_n_steps is {every_n_steps}: expected 1 or more")
        self.every_n_steps = every_n_steps
        self._budget = budget or Budget()
        self._groups: dict[str, LayerGroup] = {}
        self._is_sampled = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Finds the layer groups and arranges the charts."""
        rest_hook(self, "on_before_optimizer_step")
        if has_boards(trainer):
            with self._budget.counted():
                self._begin(trainer, pl_module)

    def _begin(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
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
            writer.add_custom_scalars(layout(reversed(self._groups)))  # the head first

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Decides whether this step is sampled."""
        if self._groups:
            step = logged_step(trainer)
            self._is_sampled = step == 0 or (step + 1) % self.every_n_steps == 0
            if self._is_sampled:
                wake_hook(self, "on_before_optimizer_step")
            self._speed.begin_step()

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Measures gradients in a sampled step, and keeps weights to compare with. It rests in all others."""
        if self._is_sampled:  # no optimizer may have been stepped in the sampled one, by hand
            with self._budget.counted():
                self._measure_gradients(trainer, gradient_scale(trainer, optimizer))

    def _measure_gradients(self, trainer: L.Trainer, scale: float) -> None:
        self._learning_rates = applied_learning_rates(trainer, self._groups)
        if not self._sees_weights:
            return
        self._before = {}
        for name in trainable_names(self._groups):
            parameters = list(self._groups[name].parameters.values())
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            if gradients:
                self._samples[f"gradient_norm/{name}"] = norm_of(gradients) / scale
                self._before[name] = [part_of(parameter).clone() for parameter in parameters]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes a sample once the optimizer has stepped."""
        if not self._groups:
            return
        self._speed.end_step(examples_in_step(batch, getattr(trainer, "datamodule", None), trainer.world_size))
        if self._is_sampled and self._learning_rates:  # else gradients are still being accumulated
            with self._budget.counted():
                self._end_sample(trainer)

    def _end_sample(self, trainer: L.Trainer) -> None:
        for name, before in (self._before if self._samples else {}).items():
            after = [part_of(parameter) for parameter in self._groups[name].parameters.values()]
            ratio = norm_of(torch._foreach_sub(after, before)) / norm_of(before).clamp(min=1e-12)
            self._samples[f"update_ratio/{name}"] = ratio
        self._write(trainer)
        self._samples, self._before, self._learning_rates = {}, {}, {}
        rest_hook(self, "on_before_optimizer_step")

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
        # The memory of a private training tells how many examples were drawn, and how long the longest text was.
        if not getattr(getattr(trainer, "datamodule", None), "private", False):
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


class UnfreezingTimeline(L.Callback):
    """Draws phases and layer groups over steps again at each transition, and writes a line of text for it.

    After eight phases they are drawn again where their number has doubled, and at the end of the training. It works
    with any callback that freezes by ``requires_grad``. A resumed run continues its timeline.

    Args:
        budget: Decides when it is drawn; its data and its texts are written in any case. None for no bound.
    """

    def __init__(self, budget: Budget | None = None) -> None:
        self._budget = budget or Budget()
        self._timeline = Timeline([])
        self._groups: dict[str, LayerGroup] = {}
        self._first_parameters: list[nn.Parameter] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Begins an empty timeline. Lightning loads the state of a checkpoint after this."""
        if stage == "fit":
            self._timeline = Timeline([])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Finds the layer groups."""
        if not has_boards(trainer):
            return
        self._groups = shown_groups(trainer, pl_module)
        # A layer group freezes as one, so its first parameter shows whether it trains.
        self._first_parameters = [next(iter(group.parameters.values())) for group in self._groups.values()]
        phases, rates = self._timeline.phases, self._timeline.rates
        self._was_trainable = [name in phases[-1][1] for name in self._groups] if phases else None
        total, batches = trainer.estimated_stepping_batches, trainer.num_training_batches
        self._timeline.groups = list(self._groups)
        self._timeline.total = int(total) if 0 < total < math.inf else 0
        epoch = 0 if math.isinf(batches) else math.ceil(batches / trainer.accumulate_grad_batches)
        self._timeline.steps_per_epoch = epoch
        self._stride = max(_STRIDE, self._timeline.total // _MOST_RATES)
        self._next_rates = rates[-1][0] + self._stride if rates else logged_step(trainer)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Notes a transition that came before this step, and the learning rates at intervals."""
        if not self._groups:
            return
        step, is_trainable = logged_step(trainer), [p.requires_grad for p in self._first_parameters]
        if is_trainable == self._was_trainable and step < self._next_rates:
            return
        self._was_trainable = is_trainable
        self._timeline.rates = thinned(self._timeline.rates, 2 * _MOST_RATES)
        self._timeline.rates.append((step, list(applied_learning_rates(trainer, self._groups).values())))
        self._next_rates = step + self._stride
        names, phases = trainable_names(self._groups), self._timeline.phases
        if not phases or list(names) != phases[-1][1]:
            phases.append((step, list(names)))
            # A drawing grows with the groups. One for each of many phases would cost the square of their number.
            if len(phases) <= _DRAWN_PHASES or len(phases) & (len(phases) - 1) == 0:
                self._write(trainer, step)
            writer = boards_of(trainer)
            if writer is not None:
                words = f"phase {len(phases)} begins; trainable: {', '.join(names) or 'nothing'}"
                writer.add_text("phase/transitions", f"Step {step}, epoch {trainer.current_epoch + 1}: {words}", step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draws the timeline of the whole training."""
        if self._groups:
            last = max(logged_step(trainer) - 1, 0)
            self._write(trainer, last)
            writer = boards_of(trainer)
            if writer is not None:
                writer.add_table("phase/table", self._timeline.rows(), last)
            self._groups = {}

    def state_dict(self) -> dict[str, Any]:
        """Returns the timeline so far."""
        return asdict(self._timeline)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues a saved timeline."""
        self._timeline = Timeline(**state_dict)

    def _write(self, trainer: L.Trainer, step: int) -> None:
        self._timeline.end = step + 1
        writer = boards_of(trainer)
        with self._budget.drawing("timeline", is_wanted=bool(self._timeline.groups)) as is_drawn:
            if writer is not None and self._timeline.groups:
                add_data(writer, "phase/timeline_data", asdict(self._timeline), step)
                if is_drawn:
                    canvas = PixelCanvas(*self._timeline.size)
                    self._timeline.draw(canvas)
                    add_picture(writer, "phase/timeline", canvas.pixels(), step)
