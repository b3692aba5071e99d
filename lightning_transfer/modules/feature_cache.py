"""Features of a frozen network, computed once: a linear probe then costs what its head costs."""

from typing import Any, Protocol

import lightning as L
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


class CachedFeatures(L.Callback):
    """Has a module compute its logits from cached features during a fit, training and validation alike.

    The cache stands in for the module's ``forward`` while a batch of known rows is computed, and only then.
    """

    def __init__(self) -> None:
        self._cache: FeatureCache | None = None
        self._first_validation_row = 0  # rows of a validation split of its own are no training rows

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Puts the cache in the place of ``forward``."""
        data: object = trainer.datamodule  # type: ignore[attr-defined]
        self._cache = FeatureCache(pl_module.network, pl_module.forward, data, trainer.world_size)  # type: ignore[arg-type]
        self._first_validation_row = getattr(data, "first_validation_row", 0)
        pl_module.forward = self._cache.logits_of  # type: ignore[method-assign]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: IndexedBatch, batch_idx: int
    ) -> None:
        """Notes the rows of a batch."""
        self._note(batch, is_training=True)

    def on_train_batch_end(self, *_: Any) -> None:
        """Forgets the rows."""
        self._note(None)

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: IndexedBatch, batch_idx: int, _: int = 0
    ) -> None:
        """Notes the rows of a batch."""
        self._note(batch)

    def on_validation_batch_end(self, *_: Any) -> None:
        """Forgets the rows."""
        self._note(None)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Gives the module its ``forward`` back: the features are those of the training split."""
        if self._cache is not None:
            del pl_module.forward
            self._cache = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Gives the module its ``forward`` back also where the fit fails."""
        self.teardown(trainer, pl_module, "fit")

    def _note(self, batch: IndexedBatch | None, is_training: bool = False) -> None:
        if self._cache is not None:
            first = 0 if is_training else self._first_validation_row
            self._cache.rows = None if batch is None else batch.indices + first
            self._cache.is_training = is_training


class FeatureCache:
    """The logits of batches, with what comes before the head computed once for each example.

    An example's features are kept in the precision that they were computed in, in memory, on the device, by its row.
    They are forgotten when a weight or a statistic below the head changes. On several processes each shares what it
    has computed with the others, as the next epoch deals the rows anew.

    Args:
        network: The network; its last layer group is one module, whose output is the network's.
        forward: Computes the logits from the inputs by way of the network.
        data: The data module; its ``is_augmented`` says whether an example's inputs change from epoch to epoch.
        processes: The number of processes that train.

    Raises:
        UserError: For a network whose head is not one module, and data whose examples are not always the same.
    """

    def __init__(self, network: nn.Module, forward: Any, data: object, processes: int = 1) -> None:
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
        self.rows: Tensor | None = None  # int64 [batch], of the batch whose logits come next
        self.head = network.get_submodule(last[0])
        in_head = {id(parameter) for parameter in self.head.parameters()}
        self._below = {name: p for name, p in network.named_parameters() if id(p) not in in_head}
        self._tensors = [*self._below.values(), *network.buffers()]
        self._checked_modes: set[bool] = set()
        self.is_training = False
        self._processes = processes
        self._train_examples: int | None = getattr(data, "facts", {}).get("train_examples")
        self._forget([])

    def logits_of(self, *inputs: Tensor) -> Tensor:
        """Computes the logits, float [batch, classes], of a batch whose rows are noted; of any other by the network.

        Raises:
            UserError: Where kept features would be wrong: a layer below the head is trained, or is random.
        """
        if self.rows is None:
            whole: Tensor = self.forward(*inputs)
            return whole
        for name, parameter in self._below.items():
            if parameter.requires_grad:
                raise UserError(
                    f"model.cache_features is on, but {name} is trained: add configs/strategies/linear_probe.yaml, or"
                    " leave it off"
                )
        versions = [tensor._version for tensor in self._tensors]
        if versions != self._versions:
            self._forget(versions)
        self._compute_unknown(self.rows, inputs)
        assert self._table is not None
        logits: Tensor = self.head(self._table[self.rows])
        return logits

    def _forget(self, versions: list[int]) -> None:
        self._versions = versions
        self._table: Tensor | None = None
        self._is_known = torch.zeros(0, dtype=torch.bool)
        self._shared_rows: set[int] = set()  # the same on all processes

    @torch.no_grad()
    @torch.inference_mode(False)  # training could not use a table that validation has made
    def _compute_unknown(self, rows: Tensor, inputs: tuple[Tensor, ...]) -> None:
        places = rows.cpu()
        is_beyond = places >= len(self._is_known)
        unknown = is_beyond if is_beyond.all() else is_beyond | ~self._is_known[places.masked_fill(is_beyond, 0)]
        chosen = unknown.nonzero().squeeze(1).to(rows.device)
        if len(chosen):
            inputs = tuple(tensor[chosen] for tensor in inputs)
            features, _ = self._features(inputs)
            if self.network.training not in self._checked_modes:
                self._check(inputs, features)
                self._checked_modes.add(self.network.training)
            self._store(rows[chosen], features)
        # Validation deals each process the same rows in every epoch, training does not.
        if self._processes > 1 and self.is_training and len(self._shared_rows) != self._train_examples:
            self._share(rows[chosen], features if len(chosen) else None)

    def _share(self, rows: Tensor, features: Tensor | None) -> None:
        """Exchanges features with the other processes; all of them call this in the same steps."""
        found: list[Any] = [None] * self._processes
        torch.distributed.all_gather_object(found, (rows.cpu(), None if features is None else features.cpu()))
        for others, of_others in found:
            self._shared_rows.update(others.tolist())
            if of_others is not None:
                self._store(others.to(rows.device), of_others.to(rows.device))

    def _store(self, rows: Tensor, features: Tensor) -> None:
        size = int(rows.max()) + 1
        if self._table is None or len(self._table) < size:
            # At least doubled: most tables then grow only a few times.
            size = max(size, 2 * len(self._is_known))
            table, is_known = features.new_empty(size, *features.shape[1:]), torch.zeros(size, dtype=torch.bool)
            if self._table is not None:
                table[: len(self._table)], is_known[: len(self._table)] = self._table, self._is_known
            self._table, self._is_known = table, is_known
        self._table[rows] = features
        self._is_known[rows.cpu()] = True

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
