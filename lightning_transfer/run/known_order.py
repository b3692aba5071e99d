"""Has the loaders of a data module of one's own give their batches in a known order, and go on in it."""

import functools
from collections.abc import Callable
from typing import Any

import lightning as L

from lightning_transfer.data.ordinary_loader import OrdinaryLoader, is_ordinary
from lightning_transfer.seeds import run_seed

_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader")


class KnownOrder(L.Callback):
    """Replaces ordinary loaders of torch, so that a run resumes exactly and predictions know their rows.

    See :class:`~lightning_transfer.data.ordinary_loader.OrdinaryLoader`. Other loaders stay as they are, and so do
    those of several processes.
    """

    def __init__(self) -> None:
        self._seed = 0
        self._is_fit = False
        self._resume_at: dict[str, int] = {}
        self._loader: OrdinaryLoader | None = None  # of the training

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Replaces the loaders until the stage ends. The seed of a checkpoint is loaded after this."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._seed, self._is_fit = run_seed(trainer), stage == "fit"
        if data is None or trainer.world_size > 1 or trainer.overfit_batches:  # type: ignore[attr-defined]
            return
        for name in _LOADERS:
            setattr(data, name, self._known(getattr(data, name), name))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Gives the data module its methods back."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        for name in _LOADERS if data is not None else ():
            if (method := vars(data).get(name)) is not None and hasattr(method, "before"):
                setattr(data, name, method.before)

    def _known(self, method: Callable[[], Any], name: str) -> Callable[[], Any]:
        @functools.wraps(method)
        def known() -> Any:
            loader = method()
            if not is_ordinary(loader):
                return loader
            loader = OrdinaryLoader(loader, self._seed)
            if name == "train_dataloader":
                loader.load_state_dict(self._resume_at)
                self._loader, self._resume_at = loader, {}
            return loader

        known.before = method  # type: ignore[attr-defined]
        return known

    def state_dict(self) -> dict[str, Any]:
        """Returns the seed and the place in the training set; nothing where its loader is not ordinary."""
        return {} if self._loader is None else {"seed": self._seed, "place": self._loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a saved place, in a fit."""
        if self._is_fit:
            self._seed, self._resume_at = state_dict["seed"], state_dict["place"]
