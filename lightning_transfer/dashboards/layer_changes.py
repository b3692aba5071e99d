"""Shows what a training changed: how far the weights of each layer group moved, and how alike its outputs are."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lightning_transfer.dashboards.attribution import evaluating
from lightning_transfer.dashboards.budget import Budget
from lightning_transfer.dashboards.events import add_data, add_picture, boards_of
from lightning_transfer.dashboards.samples import is_shown, shows_validation, take
from lightning_transfer.dashboards.starting_weights import StartingWeights
from lightning_transfer.lightning_internals import logged_step
from lightning_transfer.networks.layer_groups import LayerGroup
from lightning_transfer.report.change_figure import LayerGroupChanges
from lightning_transfer.report.drawing import PixelCanvas
from lightning_transfer.transfer.shown_groups import shown_groups

_EXAMPLES = 256  # of the hold-out, whose outputs are compared
_FEWEST = 8  # of fewer examples a similarity says nothing


class LayerChanges(L.Callback):
    """Compares each layer group at the end of a training with its start.

    The distance of the weights is the norm of what was added to them, as a share of their norm at the start. The
    outputs for a sample of the hold-out are averaged over places or time, and compared by linear CKA. Those of the
    start are computed at the end, with the weights of the start. Nothing is shown where these are not kept.

    Args:
        start: Keeps the weights of the start.
        budget: Decides on how many examples the outputs are compared, and whether the figure is drawn.

    Source:
        Kornblith et al., Similarity of Neural Network Representations Revisited, 2019.
    """

    def __init__(self, start: StartingWeights, budget: Budget) -> None:
        self._start, self._budget = start, budget
        self._groups: dict[str, LayerGroup] = {}
        self._sample: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Finds the layer groups."""
        self._groups, self._sample = shown_groups(trainer, pl_module) if self._start.are_known else {}, None

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the first examples of the hold-out."""
        if self._groups and self._sample is None and is_shown(batch) and shows_validation(trainer):
            self._sample = take(batch, slice(_EXAMPLES))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Shows what has changed, and drops what was kept."""
        writer = boards_of(trainer)
        with self._budget.drawing("changes of layer groups", is_wanted=bool(self._groups)) as is_drawn:
            if writer is not None and is_drawn:
                found = self._compared(trainer, pl_module)
                step = logged_step(trainer)  # that of the next step, so that a run which goes on takes it back
                canvas = PixelCanvas(*found.size)
                found.draw(canvas)
                add_picture(writer, "change/layer_groups", canvas.pixels(), step)
                add_data(writer, "change/layer_groups_data", asdict(found), step)
                rows = zip(found.groups, found.distances, found.similarities, strict=True)
                table = [{"layer group": name, "distance": far, "cka": alike} for name, far, alike in rows]
                writer.add_table("change/layer_groups_table", table, step)
        self._groups, self._sample = {}, None

    def _compared(self, trainer: L.Trainer, pl_module: L.LightningModule) -> LayerGroupChanges:
        distances = [self._distance(group.parameters.values()) for group in self._groups.values()]
        both: dict[str, tuple[Tensor, Tensor]] = {}
        examples = len(self._sample.labels) if self._sample is not None else 0
        count = self._budget.affordable(examples, passes=2)
        if count < min(_FEWEST, examples):
            self._budget.leave_out("similarities of layer groups")
        elif count:
            sample = take(self._sample, slice(count))
            before = self._pooled_outputs(trainer, pl_module, sample, partial(self._start.run, pl_module))
            after = self._pooled_outputs(trainer, pl_module, sample, lambda inputs: pl_module(*inputs))
            both = {name: (before[name], output) for name, output in after.items() if name in before}
        similarities = [linear_cka(*both[name]) if name in both else None for name in self._groups]
        return LayerGroupChanges([*self._groups], distances, similarities, count if both else 0)

    def _distance(self, parameters: Iterable[nn.Parameter]) -> float:
        """Computes the norm of what was added to weights, as a share of their norm; that itself where they were 0."""
        pairs = ((self._start.of(now).cpu().float(), now.detach().cpu().float()) for now in parameters)
        norms = torch.tensor([[start.norm(), (now - start).norm()] for start, now in pairs])
        before, moved = norms.norm(dim=0)
        return float(moved / before) if before > 0 else float(moved)

    def _pooled_outputs(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        sample: Any,
        run: Callable[[tuple[Tensor, ...]], Any],
    ) -> dict[str, Tensor]:
        """Computes the last output of each group that has the examples for a dimension, float [examples, features]."""
        found: dict[str, Tensor] = {}
        count = len(sample.labels)

        def keep(name: str, _: nn.Module, __: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            if isinstance(tensor, Tensor) and tensor.ndim > 1 and count in tensor.shape:
                found[name] = _pooled(tensor.detach(), count)

        pairs = [(name, module) for name, group in self._groups.items() for module in group.modules]
        hooks = [module.register_forward_hook(partial(keep, name)) for name, module in pairs]
        try:
            # A user's module may have another forward, or none: a picture must never stop a training.
            with suppress(Exception), evaluating(trainer, pl_module):
                run(tuple(tensor.clone() for tensor in sample.inputs))  # they were made in inference mode
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
