"""Shows what a training changed: how far the weights of each layer group moved, and how alike its outputs are."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn

from lightning_transfer.dashboards.attribution import evaluating
from lightning_transfer.dashboards.events import add_data, add_picture, boards_of, has_boards
from lightning_transfer.dashboards.samples import first_batches, take
from lightning_transfer.lightning_internals import logged_step
from lightning_transfer.networks.layer_groups import LayerGroup
from lightning_transfer.report.change_figure import LayerGroupChanges
from lightning_transfer.report.drawing import PixelCanvas
from lightning_transfer.transfer.shown_groups import shown_groups

_EXAMPLES = 256  # of the hold-out, whose outputs are compared


class LayerChanges(L.Callback):
    """Compares each layer group at the end of a training with its start.

    The distance of the weights is the norm of what was added to them, as a share of their norm at the start. The
    outputs for a sample of the hold-out are averaged over places or time, and compared by linear CKA. Nothing is shown
    of a run that resumes, which no longer knows its start, or whose weights are divided over ranks.

    Source:
        Kornblith et al., Similarity of Neural Network Representations Revisited, 2019.
    """

    def __init__(self) -> None:
        self._start: dict[str, dict[str, Tensor]] = {}  # group -> name -> weight, on the CPU
        self._groups: dict[str, LayerGroup] = {}
        self._sample: Any = None
        self._outputs: dict[str, Tensor] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keeps the weights, and the outputs for the sample."""
        self._start, self._sample, self._outputs = {}, None, {}
        is_divided = isinstance(trainer.strategy, DeepSpeedStrategy | FSDPStrategy | ModelParallelStrategy)
        if not has_boards(trainer) or trainer.global_step > 0 or is_divided:
            return
        batches = first_batches(trainer, 1)
        if not trainer.is_global_zero:
            return
        self._groups = shown_groups(trainer, pl_module)
        self._start = {
            name: {path: weight.detach().to("cpu", copy=True) for path, weight in group.parameters.items()}
            for name, group in self._groups.items()
        }
        if batches:
            self._sample = take(batches[0], slice(_EXAMPLES))
            self._outputs = self._pooled_outputs(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Shows what has changed, and drops what was kept."""
        writer = boards_of(trainer)
        if writer is not None and self._start:
            now = self._pooled_outputs(trainer, pl_module) if self._outputs else {}
            both = {name: (self._outputs[name], output) for name, output in now.items() if name in self._outputs}
            found = LayerGroupChanges(
                [*self._start],
                [_distance(start, self._groups[name].parameters) for name, start in self._start.items()],
                [linear_cka(*both[name]) if name in both else None for name in self._start],
                len(self._sample.labels) if self._sample is not None else 0,
            )
            step = logged_step(trainer)  # that of the next step, so that a run which goes on takes it back
            canvas = PixelCanvas(*found.size)
            found.draw(canvas)
            add_picture(writer, "change/layer_groups", canvas.pixels(), step)
            add_data(writer, "change/layer_groups_data", asdict(found), step)
            rows = zip(found.groups, found.distances, found.similarities, strict=True)
            table = [{"layer group": name, "distance": far, "cka": alike} for name, far, alike in rows]
            writer.add_table("change/layer_groups_table", table, step)
        self._start, self._groups, self._sample, self._outputs = {}, {}, None, {}

    def _pooled_outputs(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Tensor]:
        """Computes the last output of each group that has the examples for a dimension, float [examples, features]."""
        found: dict[str, Tensor] = {}
        count = len(self._sample.labels)

        def keep(name: str, _: nn.Module, __: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            if isinstance(tensor, Tensor) and tensor.ndim > 1 and count in tensor.shape:
                found[name] = _pooled(tensor.detach(), count)

        pairs = [(name, module) for name, group in self._groups.items() for module in group.modules]
        hooks = [module.register_forward_hook(partial(keep, name)) for name, module in pairs]
        try:
            # A user's module may have another forward, or none: a picture must never stop a training.
            with suppress(Exception), evaluating(trainer, pl_module):
                pl_module(*self._sample.inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return {name: tensor.float().cpu() for name, tensor in found.items()}


def linear_cka(before: Tensor, after: Tensor) -> float | None:
    """Compares features of the same examples by linear centred kernel alignment.

    Args:
        before: float [examples, features].
        after: float [examples, other features].

    Returns:
        From 0 to 1, the latter where one is the other but for a rotation and a scale; None where one is constant.
    """
    grams = [centred @ centred.T for centred in (each.double() - each.double().mean(0) for each in (before, after))]
    scale = grams[0].norm() * grams[1].norm()
    return (grams[0] * grams[1]).sum().div(scale).item() if scale > 0 and scale.isfinite() else None


def _pooled(output: Tensor, count: int) -> Tensor:
    """Averages over height and width, or time; the examples may be the first or a later dimension."""
    examples = output.movedim([*output.shape].index(count), 0)
    if examples.ndim == 2:
        return examples
    return examples.flatten(2).mean(2) if examples.ndim == 4 else examples.flatten(1, -2).mean(1)


def _distance(start: Mapping[str, Tensor], now: Mapping[str, nn.Parameter]) -> float:
    """Computes the norm of what was added to weights, as a share of their norm; that itself where they were 0."""
    before = torch.stack([weight.float().norm() for weight in start.values()]).norm()
    added = [(now[name].detach().cpu().float() - weight.float()).norm() for name, weight in start.items()]
    moved = torch.stack(added).norm()
    return float(moved / before) if before > 0 else float(moved)
