"""The learning rates that optimizer steps really use, by layer group."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from lightning_transfer.networks.layer_groups import LayerGroup


class AppliedLearningRates:
    """Reads learning rates inside the optimizer step, where the factors of an unfreezing schedule are applied.

    Args:
        optimizers: The optimizers, with their hooks in place: the last hook sees the final rates.
        groups: The layer groups.
    """

    def __init__(self, optimizers: Sequence[Optimizer], groups: Mapping[str, LayerGroup]) -> None:
        self._groups = groups
        self._optimizers = optimizers
        self._rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        self._hooks = [optimizer.register_step_pre_hook(self._read) for optimizer in optimizers]
        holders = {
            id(parameter): (number, position)
            for number, optimizer in enumerate(optimizers)
            for position, group in enumerate(optimizer.param_groups)
            for parameter in group["params"]
        }
        # A layer group may be split into parameters with and without weight decay: any of them has its rate.
        self._holders = {
            name: next((holders[id(p)] for p in group.parameters.values() if id(p) in holders), None)
            for name, group in groups.items()
        }

    def by_group(self) -> dict[str, float]:
        """The learning rate of each layer group at the last step, 0 where it is frozen."""
        rates = {}
        for name, group in self._groups.items():
            holder, first = self._holders[name], next(iter(group.parameters.values()))
            rates[name] = float(self._rates[holder[0]][holder[1]]) if holder and first.requires_grad else 0.0
        return rates

    def remove(self) -> None:
        """Leaves the optimizers as they were found."""
        for hook in self._hooks:
            hook.remove()

    def _read(self, optimizer: Optimizer, *_: Any) -> None:
        self._rates[self._optimizers.index(optimizer)] = [group["lr"] for group in optimizer.param_groups]
