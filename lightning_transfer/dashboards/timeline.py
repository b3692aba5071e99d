"""The unfreezing timeline: which layer groups were trainable when, and at which learning rate."""

import math
from dataclasses import asdict
from typing import Any

import lightning as L

from lightning_transfer.dashboards.events import add_data, add_picture, current_step, has_tensorboard, summary_writer
from lightning_transfer.report.drawing import PixelCanvas
from lightning_transfer.report.figures import Timeline, thinned
from lightning_transfer.transfer.applied_learning_rates import AppliedLearningRates
from lightning_transfer.transfer.shown_groups import shown_groups, trainable_names

_MOST_RATES = 128  # wider than this, the figure would not show more


class UnfreezingTimeline(L.Callback):
    """Draws phases and layer groups over steps, anew at each transition, and writes a line of text for each.

    Works with any callback that freezes by ``requires_grad``. What it shows continues over a resume.
    """

    def __init__(self) -> None:
        self._timeline = Timeline([])
        self._rates: AppliedLearningRates | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Begins anew; a checkpoint's state is loaded after this."""
        if stage == "fit":
            self._timeline = Timeline([])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Finds the layer groups."""
        if not has_tensorboard(trainer):
            return
        self._groups = shown_groups(trainer, pl_module)
        self._rates = AppliedLearningRates(trainer.optimizers, self._groups)
        total, batches = trainer.estimated_stepping_batches, trainer.num_training_batches
        self._timeline.groups = list(self._groups)
        self._timeline.total = int(total) if 0 < total < math.inf else 0
        epoch = 0 if math.isinf(batches) else math.ceil(batches / trainer.accumulate_grad_batches)
        self._timeline.steps_per_epoch = epoch
        self._stride = max(1, self._timeline.total // _MOST_RATES)
        self._next_rates = current_step(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes a transition that came before this step, and from time to time the learning rates."""
        if self._rates is None:
            return
        step, names = current_step(trainer), trainable_names(self._groups)
        phases = self._timeline.phases
        is_new = not phases or list(names) != phases[-1][1]
        if is_new or step >= self._next_rates:
            self._timeline.rates = thinned(self._timeline.rates, 2 * _MOST_RATES)
            self._timeline.rates.append((step, list(self._rates.by_group().values())))
            self._next_rates = step + self._stride
        if is_new:
            phases.append((step, list(names)))
            self._write(trainer, step)
            writer = summary_writer(trainer)
            if writer is not None:
                words = f"phase {len(phases)} begins; trainable: {', '.join(names) or 'nothing'}"
                writer.add_text("phase/transitions", f"Step {step}, epoch {trainer.current_epoch + 1}: {words}", step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draws the whole."""
        if self._rates is not None:
            self._write(trainer, max(current_step(trainer) - 1, 0))
            self._rates.remove()
            self._rates = None

    def state_dict(self) -> dict[str, Any]:
        """The timeline so far."""
        return asdict(self._timeline)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a saved timeline."""
        self._timeline = Timeline(**state_dict)

    def _write(self, trainer: L.Trainer, step: int) -> None:
        self._timeline.end = step + 1
        writer = summary_writer(trainer)
        if writer is not None and self._timeline.groups:
            canvas = PixelCanvas(*self._timeline.size)
            self._timeline.draw(canvas)
            add_picture(writer, "phase/timeline", canvas.pixels(), step)
            add_data(writer, "phase/timeline_data", asdict(self._timeline), step)
