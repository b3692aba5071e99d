"""Features of a frozen network, computed once: a linear probe then costs what its head costs."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import group_patterns


class IndexedBatch(Protocol):
    """What the cache needs of a batch."""

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The arguments of the network's ``forward``."""

    @property
    def indices(self) -> Tensor:
        """int64 [batch], the row of each example: the same row always has the same inputs."""


class FeatureCache:
    """The logits of batches, with what comes before the head computed once for each example.

    An example's features are kept in the precision that they were computed in, in memory, on the device, by its row.
    They are forgotten when a weight or a statistic below the head changes.

    Args:
        network: The network; its last layer group is one module, whose output is the network's.
        forward: Computes the logits from the inputs by way of the network.
        data: The data module; its ``is_augmented`` says whether an example's inputs change from epoch to epoch.

    Raises:
        UserError: For a network whose head is not one module, and data whose examples are not always the same.
    """

    def __init__(self, network: nn.Module, forward: Callable[..., Tensor], data: object) -> None:
        if getattr(data, "is_augmented", True):
            known = "are changed at random" if hasattr(data, "is_augmented") else "are not known by their rows"
            raise UserError(
                f"model.cache_features is on, but the examples of {type(data).__name__} {known}: take data.augmentation"
                " and data.mixing away, or leave it off"
            )
        groups = getattr(network, "layer_groups", None)
        last = list(group_patterns(groups).values())[-1] if groups else []
        if len(last) != 1:
            raise UserError(
                f"model.cache_features needs a last layer group of one module, which {type(network).__name__} does not"
                " have: leave it off"
            )
        self.network, self.forward = network, forward
        self.head = network.get_submodule(last[0])
        in_head = {id(parameter) for parameter in self.head.parameters()}
        self._below = {name: p for name, p in network.named_parameters() if id(p) not in in_head}
        self._tensors = [*self._below.values(), *network.buffers()]
        self._checked_modes: set[bool] = set()
        self._versions: list[int] = []
        self._table: Tensor | None = None
        self._is_known = torch.zeros(0, dtype=torch.bool)

    def logits(self, batch: IndexedBatch) -> Tensor:
        """Computes the logits of a batch, float [batch, classes].

        Raises:
            UserError: Where kept features would be wrong: a layer below the head is trained, or is random.
        """
        for name, parameter in self._below.items():
            if parameter.requires_grad:
                raise UserError(
                    f"model.cache_features is on, but {name} is trained: add configs/strategies/linear_probe.yaml, or"
                    " leave it off"
                )
        versions = [tensor._version for tensor in self._tensors]
        if versions != self._versions:
            self._versions, self._table = versions, None
            self._is_known = torch.zeros(0, dtype=torch.bool)
        rows = batch.indices.cpu()
        if len(self._is_known) <= int(rows.max()) or not bool(self._is_known[rows].all()):
            self._store(rows, batch)
        assert self._table is not None
        logits: Tensor = self.head(self._table[batch.indices])
        return logits

    @torch.no_grad()
    @torch.inference_mode(False)  # training could not use a table that validation has made
    def _store(self, rows: Tensor, batch: IndexedBatch) -> None:
        features, _ = self._features(batch.inputs)
        if self.network.training not in self._checked_modes:
            self._check(batch.inputs, features)
            self._checked_modes.add(self.network.training)
        if self._table is None:
            self._table = features.new_empty(0, *features.shape[1:])
        more = int(rows.max()) + 1 - len(self._is_known)
        if more > 0:
            more = max(more, len(self._is_known))  # at least doubled: most tables then grow only a few times
            self._is_known = torch.cat([self._is_known, torch.zeros(more, dtype=torch.bool)])
            self._table = torch.cat([self._table, features.new_empty(more, *features.shape[1:])])
        self._table[batch.indices] = features
        self._is_known[rows] = True

    def _features(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Computes what the head is given, and the network's output."""
        given: list[Any] = []
        hook = self.head.register_forward_pre_hook(lambda module, arguments: given.append(arguments[0]))
        with torch.compiler.set_stance("force_eager"):  # what is compiled does not see the hook
            output = self.forward(*inputs)
        hook.remove()
        return given[-1], output

    def _check(self, inputs: tuple[Tensor, ...], features: Tensor) -> None:
        """Computes features as in evaluation: they must be the given ones, and the head all that follows."""
        training = {module: module.training for module in self.network.modules()}
        self.network.eval()
        in_evaluation, output = self._features(inputs)
        is_all = torch.equal(self.head(in_evaluation), output)
        for module, mode in training.items():
            module.training = mode
        if not is_all:
            raise UserError(
                f"model.cache_features needs a network whose head is its end and which sees an example once in"
                f" evaluation, unlike this {type(self.network).__name__}: leave it off"
            )
        if not torch.equal(in_evaluation, features):
            raise UserError(
                "model.cache_features needs the same features in training as in evaluation: set the dropout below the"
                " head to 0 and freeze the norm layers with ProgressiveUnfreezing, or leave it off"
            )
