"""Reads the learning rates that the next optimizer step really uses, by layer group."""

from collections.abc import Mapping

import lightning as L

from lightning_transfer.networks.layer_groups import LayerGroup
from lightning_transfer.transfer.shown_groups import unfreezing_of


def applied_learning_rates(trainer: L.Trainer, groups: Mapping[str, LayerGroup]) -> dict[str, float]:
    """Reads the learning rates of the next optimizer step, with the factors of an unfreezing schedule.

    Args:
        trainer: The trainer, in a fit and before an optimizer steps.
        groups: The layer groups.

    Returns:
        The learning rate of each layer group, 0 where it is frozen.
    """
    scaled = getattr(unfreezing_of(trainer), "learning_rates", None)
    rates: dict[int, float] = {}
    # The groups are read anew each time, because Lightning's own finetuning adds parameter groups while it trains.
    for optimizer in trainer.optimizers:
        of_groups = [group["lr"] for group in optimizer.param_groups] if scaled is None else scaled(optimizer)
        for group, rate in zip(optimizer.param_groups, of_groups, strict=True):
            rates |= {id(parameter): float(rate) for parameter in group["params"]}
    # A layer group may be split into parameters with and without weight decay. Any parameter has the group's rate.
    return {
        name: next((rates[id(p)] for p in group.parameters.values() if p.requires_grad and id(p) in rates), 0.0)
        for name, group in groups.items()
    }
