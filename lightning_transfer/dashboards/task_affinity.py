"""Shows how well tasks that are learned together agree: the cosines between their gradients."""

import itertools
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_transfer.dashboards.attribution import evaluating
from lightning_transfer.dashboards.budget import Budget
from lightning_transfer.dashboards.events import Boards, add_data, add_picture, add_scalars, boards_of
from lightning_transfer.data.batches import TaskBatch, examples_in
from lightning_transfer.lightning_internals import divides_weights, logged_step
from lightning_transfer.report.drawing import PixelCanvas, shortened

_CELL, _LEFT, _TOP = 56, 110, 44  # sizes of the picture, in units


class TaskAffinity(L.Callback):
    """Draws, at the end of each epoch that affords it, the cosine between the gradients of each pair of tasks.

    The gradients are those of the parameters that the tasks share and that train, in eval mode, by the last training
    batch of each task on the first process. Above 0 a step for one task helps the other, and below 0 it harms it.
    ``affinity/<task>_<other>`` are its curves. It needs a module with a method ``shared_gradients``, as
    ``MultiTaskModule`` has, and is not there where the weights are divided over the ranks.

    Args:
        budget: Decides after which epochs it is drawn; None for all.

    Source:
        Yu et al., Gradient Surgery for Multi-Task Learning, 2020, whose conflicting gradients are those with a cosine
        below 0.
    """

    def __init__(self, budget: Budget | None = None) -> None:
        self._budget = budget or Budget()
        self._batches: dict[str, TaskBatch] = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the last batch of each task."""
        if isinstance(batch, list):
            self._batches |= {one.task: one for one in batch if isinstance(one, TaskBatch)}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Computes the cosines and writes them."""
        writer = boards_of(trainer)
        compute: Any = getattr(pl_module, "shared_gradients", None)
        batches, self._batches = list(self._batches.values()), {}
        is_known = compute is not None and bool(batches) and not divides_weights(trainer)
        with self._budget.drawing("task affinity", examples_in(batches), is_wanted=is_known) as is_drawn:
            if writer is not None and is_known and is_drawn:
                with evaluating(trainer, pl_module, with_gradients=True):
                    gradients: dict[str, Tensor] = compute(batches)
                self._write(trainer, writer, gradients)

    def _write(self, trainer: L.Trainer, writer: Boards, gradients: dict[str, Tensor]) -> None:
        if len(gradients) < 2:
            return
        step, names = logged_step(trainer), list(gradients)
        directions = torch.nn.functional.normalize(torch.stack(list(gradients.values())).float(), dim=1)
        cosines = (directions @ directions.T).tolist()
        places = itertools.combinations(range(len(names)), 2)
        add_scalars(
            writer, {f"affinity/{names[one]}_{names[other]}": cosines[one][other] for one, other in places}, step
        )
        add_picture(writer, "tasks/affinity", _picture(names, cosines), step)
        add_data(writer, "tasks/affinity_data", {"tasks": names, "cosines": cosines}, step)


def _picture(names: list[str], cosines: list[list[float]]) -> Any:
    """Draws the matrix: blue where tasks agree, orange where they do not."""
    side = _CELL * len(names)
    canvas = PixelCanvas(max(_LEFT + side + 20, 360), _TOP + side + 12)
    canvas.text(12, 14, "cosines between the gradients of tasks", "muted", 11)
    for row, name in enumerate(names):
        middle = _CELL * (row + 0.5)
        canvas.text(_LEFT - 8, _TOP + middle, shortened(name, _LEFT - 16, 11), size=11, anchor="end")
        canvas.text(_LEFT + middle, _TOP - 10, shortened(name, _CELL - 4, 11), "muted", 11, "middle")
        for column, cosine in enumerate(cosines[row]):
            x, y = _LEFT + _CELL * column, _TOP + _CELL * row
            canvas.rectangle(x + 1, y + 1, _CELL - 2, _CELL - 2, "accent" if cosine > 0 else "second", abs(cosine))
            color: Any = "paper" if abs(cosine) > 0.6 else "ink"
            canvas.text(x + _CELL / 2, y + _CELL / 2, f"{cosine:.2f}", color, 12, "middle")
    return canvas.pixels()
