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

    def by_group(self) -> dict[str, float]:
        """The learning rate of each layer group at the last step, 0 where it is frozen."""
        # Anew each time: Lightning's own finetuning adds parameter groups while it trains.
        rates = {
            id(parameter): float(rate)
            for optimizer, of_groups in zip(self._optimizers, self._rates, strict=True)
            for group, rate in zip(optimizer.param_groups, of_groups, strict=False)
            for parameter in group["params"]
        }
        # A layer group may be split into parameters with and without weight decay: any of them has its rate.
        return {
            name: next((rates[id(p)] for p in group.parameters.values() if p.requires_grad and id(p) in rates), 0.0)
            for name, group in self._groups.items()
        }

    def remove(self) -> None:
        """Leaves the optimizers as they were found."""
        for hook in self._hooks:
            hook.remove()

    def _read(self, optimizer: Optimizer, *_: Any) -> None:
        self._rates[self._optimizers.index(optimizer)] = [group["lr"] for group in optimizer.param_groups]
