"""The learning rates that the next optimizer step really uses, by layer group."""

from collections.abc import Mapping

import lightning as L

from lightning_transfer.networks.layer_groups import LayerGroup
from lightning_transfer.transfer.shown_groups import unfreezing_of


def applied_learning_rates(trainer: L.Trainer, groups: Mapping[str, LayerGroup]) -> dict[str, float]:
    """Reads the learning rates of the step that comes next, those of an unfreezing schedule included.

    Args:
        trainer: In a fit, before an optimizer steps.
        groups: The layer groups.

    Returns:
        The learning rate of each layer group, 0 where it is frozen.
    """
    scaled = getattr(unfreezing_of(trainer), "learning_rates", None)
    rates: dict[int, float] = {}
    # Anew each time: Lightning's own finetuning adds parameter groups while it trains.
    for optimizer in trainer.optimizers:
        of_groups = [group["lr"] for group in optimizer.param_groups] if scaled is None else scaled(optimizer)
        for group, rate in zip(optimizer.param_groups, of_groups, strict=True):
            rates |= {id(parameter): float(rate) for parameter in group["params"]}
    # A layer group may be split into parameters with and without weight decay: any of them has its rate.
    return {
        name: next((rates[id(p)] for p in group.parameters.values() if p.requires_grad and id(p) in rates), 0.0)
        for name, group in groups.items()
    }
