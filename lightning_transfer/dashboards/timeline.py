"""Draws the unfreezing timeline: which layer groups were trainable when, and at which learning rate."""

import math
from dataclasses import asdict
from typing import Any

import lightning as L
from torch import nn
from torch.optim import Optimizer

from lightning_transfer.dashboards.events import add_data, add_picture, boards_of, has_boards
from lightning_transfer.lightning_internals import logged_step
from lightning_transfer.networks.layer_groups import LayerGroup
from lightning_transfer.report.drawing import PixelCanvas
from lightning_transfer.report.figures import Timeline, thinned
from lightning_transfer.transfer.applied_learning_rates import applied_learning_rates
from lightning_transfer.transfer.shown_groups import shown_groups, trainable_names

_MOST_RATES = 128  # the figure is too narrow to show more samples of the learning rates
_STRIDE = 10  # minimum number of steps from one sample of the learning rates to the next


class UnfreezingTimeline(L.Callback):
    """Draws phases and layer groups over steps again at each transition, and writes a line of text for it.

    It works with any callback that freezes by ``requires_grad``. A resumed run continues its timeline.
    """

    def __init__(self) -> None:
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
        self._was_trainable: list[bool] | None = None
        total, batches = trainer.estimated_stepping_batches, trainer.num_training_batches
        self._timeline.groups = list(self._groups)
        self._timeline.total = int(total) if 0 < total < math.inf else 0
        epoch = 0 if math.isinf(batches) else math.ceil(batches / trainer.accumulate_grad_batches)
        self._timeline.steps_per_epoch = epoch
        self._stride = max(_STRIDE, self._timeline.total // _MOST_RATES)
        self._next_rates = logged_step(trainer)

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
            self._write(trainer, step)
            writer = boards_of(trainer)
            if writer is not None:
                words = f"phase {len(phases)} begins; trainable: {', '.join(names) or 'nothing'}"
                writer.add_text("phase/transitions", f"Step {step}, epoch {trainer.current_epoch + 1}: {words}", step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draws the timeline of the whole training."""
        if self._groups:
            self._write(trainer, max(logged_step(trainer) - 1, 0))
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
        if writer is not None and self._timeline.groups:
            canvas = PixelCanvas(*self._timeline.size)
            self._timeline.draw(canvas)
            add_picture(writer, "phase/timeline", canvas.pixels(), step)
            add_data(writer, "phase/timeline_data", asdict(self._timeline), step)
