"""Keeps what a network was at the start of a training, to compare it with its end."""

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lightning_transfer.dashboards.budget import Budget
from lightning_transfer.dashboards.events import boards_of
from lightning_transfer.lightning_internals import divides_weights


class StartingWeights(L.Callback):
    """Keeps the weights and statistics that a training starts with, on the CPU of the first rank.

    So what the network computed at its start can be computed at the end, once it is known what that may cost. Nothing
    is kept of a run that resumes, which no longer knows its start, or whose weights are divided over ranks.

    Args:
        budget: Counts the seconds of copying.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._tensors: dict[str, Tensor] = {}
        self._names: dict[int, str] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Copies the weights."""
        self._tensors, self._names = {}, {}
        if boards_of(trainer) is None or trainer.global_step > 0 or divides_weights(trainer):
            return
        with self._budget.counted():
            named = dict([*pl_module.named_parameters(), *pl_module.named_buffers()])
            self._tensors = {name: tensor.detach().to("cpu", copy=True) for name, tensor in named.items()}
            self._names = {id(tensor): name for name, tensor in named.items()}

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Drops the weights."""
        self._tensors, self._names = {}, {}

    @property
    def are_known(self) -> bool:
        """Whether the start of this training is kept."""
        return bool(self._tensors)

    def of(self, parameter: nn.Parameter) -> Tensor:
        """Returns what a parameter was."""
        return self._tensors[self._names[id(parameter)]]

    def run(self, pl_module: L.LightningModule, inputs: tuple[Tensor, ...]) -> Any:
        """Runs the module as it was at the start.

        Raises:
            RuntimeError: If the module has other weights by now than at its start, by name.
        """
        self._tensors = {name: tensor.to(pl_module.device) for name, tensor in self._tensors.items()}
        return torch.func.functional_call(pl_module, self._tensors, inputs, strict=True)
