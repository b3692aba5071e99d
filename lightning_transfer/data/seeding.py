"""The seed that a data module draws from: that of the run, or that of the checkpoint it goes on from."""

from typing import Any

import lightning as L

from lightning_transfer.seeds import run_seed


class SeededDataModule(L.LightningDataModule):
    """A data module that draws from the seed of the run, which is in every checkpoint."""

    _run_seed: int | None = None

    @property
    def run_seed(self) -> int:
        """The seed of the order and of the augmentation of the training set."""
        if self._run_seed is None:
            self._run_seed = run_seed(self.trainer)
        return self._run_seed

    def setup(self, stage: str) -> None:
        """Notes the seed of a fit; the one of a checkpoint is loaded after this."""
        if stage == "fit":
            self._run_seed = run_seed(self.trainer)

    def state_dict(self) -> dict[str, Any]:
        """The seed, as plain types."""
        return {"run_seed": self.run_seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a saved seed."""
        self._run_seed = state_dict.get("run_seed", self._run_seed)
