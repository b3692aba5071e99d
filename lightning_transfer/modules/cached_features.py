"""Has the features of frozen layers computed once in a fit, and shared between runs where that is asked for."""

from dataclasses import asdict
from typing import Any, Protocol

import lightning as L
from torch import Tensor, nn

from lightning_transfer.modules.feature_cache import FeatureCache
from lightning_transfer.modules.shared_features import Sharing


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

    The cache stands in for the module's ``forward`` while a batch of known rows is computed, and only then. A test that
    follows the fit takes and leaves shared features likewise. Whose they are follows from the weights it is made with.

    Args:
        is_shared: Whether runs share the features, in the folder of the cache.
    """

    def __init__(self, is_shared: bool = False) -> None:
        self._is_shared = is_shared
        self._cache: FeatureCache | None = None  # in a fit
        self._trained: list[float] = []  # sums of frozen weights as they train
        self._validates_others: bool | None = None  # until a batch of the validation has come
        self._first_validation_row = 0  # rows of a validation split of its own are no training rows
        self._sharing = Sharing()  # of the fit and of the test that follows
        self._unfrozen: list[nn.Parameter] = []  # what is frozen for the time of a test alone

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Puts the cache in the place of ``forward``."""
        pl_module.frozen_in_fit, self._sharing = [], Sharing()  # type: ignore[assignment]
        self._begin(trainer, pl_module)

    def _begin(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data: object = trainer.datamodule  # type: ignore[attr-defined]
        self._cache = FeatureCache(
            pl_module.network,  # type: ignore[arg-type]
            pl_module.forward,
            data,
            # The shares of a private batch may be empty on some processes alone, which then exchange nothing.
            1 if _is_private(trainer) else trainer.world_size,
            self._is_shared,
            self._sharing,
        )
        self._first_validation_row = getattr(data, "first_validation_row", 0)
        pl_module.forward = self._cache.logits_of  # type: ignore[method-assign]

    def head_and_features(self, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, Tensor] | None:
        """Gives the module that turns features of the present batch into logits, and these features.

        What is computed next is no longer of known rows.

        Args:
            inputs: Those of the batch, which is not empty.

        Returns:
            None where no module alone does that, as while more than the head trains.
        """
        return None if self._cache is None else self._cache.head_and_features(inputs)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: IndexedBatch, batch_idx: int
    ) -> None:
        """Notes the rows of a batch."""
        self._note(trainer, batch, is_training=True)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Forgets the rows."""
        self._note(trainer, None)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Notes the frozen weights, in whose place a callback may put their average for the validation."""
        self._trained, self._validates_others = [] if self._cache is None else self._cache.sums_below(), None

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: IndexedBatch, batch_idx: int, _: int = 0
    ) -> None:
        """Notes the rows of a batch, unless the features are those of other weights."""
        if self._validates_others is None:
            self._validates_others = self._cache is not None and self._cache.sums_below() != self._trained
        self._note(trainer, None if self._validates_others else batch)

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Forgets the rows."""
        self._note(trainer, None)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leaves to other runs the features that were computed since the last time."""
        if self._cache is None or not self._is_shared:
            return
        self._cache.share()
        if not _is_private(trainer):  # how many examples another run has as well tells of one more
            pl_module.shared_features = asdict(self._sharing)  # type: ignore[assignment]

    on_train_epoch_end = on_validation_end

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Notes what was frozen to the end. Other callbacks thaw it after this."""
        if self._is_shared and self._cache is not None and self._cache.is_cut:
            frozen = [name for name, parameter in pl_module.named_parameters() if not parameter.requires_grad]
            pl_module.frozen_in_fit = frozen  # type: ignore[assignment]

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Puts a cache in the place of ``forward`` where the test follows a fit of the module, on such data."""
        names: list[str] = pl_module.frozen_in_fit  # type: ignore[assignment]
        parameters = dict(pl_module.named_parameters())
        is_as_in_fit = parameters.keys() >= {*names}  # adapters are merged by now
        if names and is_as_in_fit and not getattr(trainer.datamodule, "is_augmented", True):  # type: ignore[attr-defined]
            frozen = [parameters[name] for name in names]
            self._unfrozen = [parameter for parameter in frozen if parameter.requires_grad]
            _set_requires_grad(self._unfrozen, False)
            self._sharing = Sharing(**(pl_module.shared_features or {}))  # type: ignore[arg-type]
            self._begin(trainer, pl_module)

    def on_test_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: IndexedBatch, batch_idx: int, _: int = 0
    ) -> None:
        """Notes the rows of a batch."""
        self._note(trainer, batch)

    def on_test_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Forgets the rows."""
        self._note(trainer, None)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leaves the features to other runs, and the module as it was."""
        self.on_validation_end(trainer, pl_module)
        self.teardown(trainer, pl_module, "test")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Gives the module its ``forward`` back: the features are those of the training split."""
        if self._cache is not None:
            del pl_module.forward
            self._cache = None
        _set_requires_grad(self._unfrozen, True)
        self._unfrozen = []

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Gives the module its ``forward`` back also where the fit or the test fails."""
        self.teardown(trainer, pl_module, "fit")

    def _note(self, trainer: L.Trainer, batch: IndexedBatch | None, is_training: bool = False) -> None:
        if self._cache is not None:
            first = 0 if is_training else self._first_validation_row
            self._cache.rows = None if batch is None else batch.indices + first
            inputs = () if batch is None else batch.inputs
            is_text = len(inputs) == 2 and getattr(batch, "lengths", None) is inputs[1]
            self._cache.lengths = inputs[1] if is_text else None
            self._cache.is_training, self._cache.is_first_step = is_training, not trainer.global_step


def _set_requires_grad(parameters: list[nn.Parameter], requires_grad: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(requires_grad)


def _is_private(trainer: L.Trainer) -> bool:
    return getattr(trainer.datamodule, "private", False)  # type: ignore[attr-defined]
