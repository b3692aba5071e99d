"""Gives a network a head for each task, in the place of the one that it has."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_transfer.errors import UserError
from lightning_transfer.networks.head_replacement import replace_head


class TaskHeads(nn.Module):
    """Computes the outputs of all tasks, side by side, from the same features.

    Every pass goes through all heads. So each process has a gradient of each, a zero where a task has no part in the
    loss, and DDP needs no search for parameters that were not used. Heads of language models are beside them, and take
    states of tokens.

    Args:
        head: The linear layer that has the outputs of all tasks; each head starts with its rows.
        outputs: Number of outputs of each task, by name.
        language_heads: The heads of language models, by the names of their tasks.

    Attributes:
        of_task: The head of each task, by name.
        log_variances: The logarithm of the variance of each task's noise, float32 [1], where these are learned.

    Raises:
        UserError: For a name that a module of torch has for something else.
    """

    def __init__(
        self, head: nn.Linear, outputs: Mapping[str, int], language_heads: Mapping[str, nn.Module] | None = None
    ) -> None:
        super().__init__()
        for name in (*outputs, *(language_heads or {})):
            if hasattr(nn.ModuleDict(), name) or hasattr(nn.ParameterDict(), name):
                raise UserError(f"task {name!r} has the name of a part of torch's modules: choose another name")
        rows = torch.split(torch.arange(head.out_features), list(outputs.values()))
        self.of_task = nn.ModuleDict({name: _rows_of(head, own) for name, own in zip(outputs, rows, strict=True)})
        self._with_outputs = list(outputs)
        self.of_task.update(language_heads or {})
        self.log_variances = nn.ParameterDict()

    def learn_variances(self) -> None:
        """Adds a variance for each task, 1 at first."""
        self.log_variances.update({name: nn.Parameter(torch.zeros(1)) for name in self.of_task})

    def forward(self, features: Tensor) -> Tensor:
        """Computes the outputs of all tasks that have any.

        Args:
            features: float [batch, features].

        Returns:
            float [batch, outputs of all tasks], in the order of the tasks.
        """
        return torch.cat([self.of_task[name](features) for name in self._with_outputs], -1)

    def parameters_of(self, task: str) -> list[nn.Parameter]:
        """Lists the parameters that belong to one task alone."""
        return [*self.of_task[task].parameters(), *([self.log_variances[task]] if self.log_variances else [])]


def split_head(
    network: nn.Module, outputs: Mapping[str, int], language_heads: Mapping[str, nn.Module] | None = None
) -> TaskHeads:
    """Replaces the last linear layer of a network by a head for each task. The layer groups keep their names.

    Args:
        network: A network that has the outputs of all tasks together, and layer groups. It is changed in place.
        outputs: Number of outputs of each task, by name.
        language_heads: See ``TaskHeads``.

    Returns:
        The heads, which are a part of the network's last layer group.

    Raises:
        UserError: If the last layer group has no linear layer with so many outputs.
    """
    total = sum(outputs.values())
    whose = ", those of all tasks together"
    return replace_head(network, lambda head: TaskHeads(head, outputs, language_heads), total, whose)


def _rows_of(layer: nn.Linear, rows: Tensor) -> nn.Linear:
    """Copies a linear layer with some of its outputs alone; also a subclass with more attributes."""
    own = copy.deepcopy(layer)
    own.out_features = len(rows)
    own.weight = nn.Parameter(layer.weight.detach()[rows].clone())
    if layer.bias is not None:
        own.bias = nn.Parameter(layer.bias.detach()[rows].clone())
    return own
