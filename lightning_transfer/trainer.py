"""The trainer of the command line."""

import lightning as L

from lightning_transfer.study.range_test import Curve, range_test
from lightning_transfer.transfer.plan import plan


class Trainer(L.Trainer):
    """Lightning's trainer, and the commands that need a model and data but train nothing to keep."""

    def plan(self, model: L.LightningModule, datamodule: L.LightningDataModule | None = None) -> None:
        """Prints the phases of ProgressiveUnfreezing: when each begins, what it trains, at which cost.

        Nothing is trained and nothing is written.

        Args:
            model: The module to be trained.
            datamodule: Its data.
        """
        print(plan(self, model, datamodule))

    def lr_find(
        self,
        model: L.LightningModule,
        datamodule: L.LightningDataModule | None = None,
        lowest: float = 1e-6,
        highest: float = 10.0,
        steps: int = 100,
    ) -> list[Curve]:
        """Suggests a learning rate for each phase of the schedule, by a range test on copies of the model.

        Args:
            model: The module to be trained.
            datamodule: Its data.
            lowest: The first learning rate tried.
            highest: The last one; a test ends before it where the loss explodes.
            steps: Number of optimizer steps of a test.
        """
        return range_test(self, model, datamodule, lowest, highest, steps)
