"""Gives data modules their seed: that of the run, or that of the checkpoint from which it resumes."""

from typing import Any

import lightning as L

from lightning_transfer.seeds import run_seed


class SeededDataModule(L.LightningDataModule):
    """A data module whose randomness depends on the seed of the run, which is in every checkpoint."""

    _run_seed: int | None = None
    sampling_seed: int | None = None  # of a private training, which keeps it secret

    @property
    def run_seed(self) -> int:
        """The seed for the order and the augmentation of the training set."""
        if self._run_seed is None:
            self._run_seed = run_seed(self.trainer)
        return self._run_seed

    def setup(self, stage: str) -> None:
        """Notes the seed of a fit, and forgets a private one. The seed of a checkpoint replaces it later."""
        if stage == "fit":
            self._run_seed, self.sampling_seed = run_seed(self.trainer), None

    def state_dict(self) -> dict[str, Any]:
        """Returns the seed, as plain types."""
        return {"run_seed": self.run_seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Uses a saved seed from now on."""
        self._run_seed = state_dict.get("run_seed", self._run_seed)

    def __str__(self) -> str:
        """Names the class: Lightning's own text reads every split, and expects torch's loaders."""
        return f"{type(self).__name__}()"
