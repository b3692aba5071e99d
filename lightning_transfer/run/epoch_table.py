"""Prints the epochs of a training in columns, the important ones only, or each as a line of JSON."""

from collections.abc import Mapping
from typing import Any

import lightning as L

from lightning_transfer.run.best_checkpoint import best_checkpoint
from lightning_transfer.run.epoch_lines import Epoch, EpochLines, in_words
from lightning_transfer.run.verbosity import print_json, print_styled

_MILESTONES = 6


class EpochTable(EpochLines):
    """Prints a row for the first epoch, each sixth of the training, the last epoch and, at the end, the best one.

    Where the number of epochs is not known, the rows are those of epochs 1, 2, 4, 8 and so on. A metric that was not
    logged in an epoch has no number in its row.
    """

    def __init__(self) -> None:
        super().__init__()
        self._columns: dict[str, int] = {}  # their widths by name
        self._epochs: dict[int, Epoch] = {}  # by the step at their end
        self._printed: set[int] = set()
        self._first_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begins a new table."""
        super().on_train_start(trainer, pl_module)
        self._columns, self._epochs, self._printed = {}, {}, set()
        self._first_step = trainer.global_step

    def show(self, trainer: L.Trainer, epoch: Epoch) -> None:
        """Prints the row of an epoch that is due, and keeps the others."""
        self._epochs[trainer.global_step] = epoch
        number, of = epoch.number, epoch.of
        sixths = [(number - back) * _MILESTONES // of for back in (0, 1)] if of else []
        if number == 1 or (sixths[0] > sixths[1] if of else number & (number - 1) == 0):
            self._print(epoch)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prints the row of the last epoch, unless it is there, and that of the best one of several."""
        self._print_last()
        best = self._best(trainer)
        if best is not None and len(self._epochs) > 1:
            self._print(best, "best ")
        super().on_train_end(trainer, pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Prints the row of the last epoch, because nothing follows."""
        self._print_last()

    def _print_last(self) -> None:
        if self._epochs:
            self._print(self._epochs[max(self._epochs)])

    def _best(self, trainer: L.Trainer) -> Epoch | None:
        """Finds the epoch in which the best checkpoint was kept, after its row; None if that was before a resume."""
        best = best_checkpoint(trainer)
        kept = best.best_step if best is not None else None
        if kept is None or kept <= self._first_step:
            return None
        steps = [step for step in self._epochs if step >= kept]
        return self._epochs[min(steps)] if steps else None

    def _print(self, epoch: Epoch, prefix: str = "") -> None:
        if epoch.number in self._printed and not prefix:
            return
        self._printed.add(epoch.number)
        cells = {"epoch": f"{prefix}{epoch.number}{f'/{epoch.of}' if epoch.of else ''}"}
        cells |= {"seconds": f"{epoch.seconds:.1f}", **in_words(epoch.standing)}
        cells |= {name: f"{value:.4f}" for name, value in epoch.metrics.items()}
        if cells.keys() - self._columns.keys():
            self._begin(cells)
        row = "  ".join(f"{cells.get(name, ''):>{width}}" for name, width in self._columns.items())
        print_styled(row, "bold green" if prefix else "none")

    def _begin(self, cells: Mapping[str, str]) -> None:
        """Prints the head of the table, again where there are new columns."""
        first = {"epoch": max(12, len(cells["epoch"])), "seconds": 8, "phase": 5, "lr": 8, "left": 7}
        names = dict.fromkeys([*self._columns, *cells])
        self._columns = {name: max(first.get(name, 0), len(name), 6) for name in names}
        head = "  ".join(f"{name:>{width}}" for name, width in self._columns.items())
        print_styled(head, "bold")


class EpochObjects(EpochLines):
    """Prints each epoch as a line of JSON."""

    def show(self, trainer: L.Trainer, epoch: Epoch) -> None:
        """Prints the object of an epoch: its number, seconds, standing and metrics."""
        facts: dict[str, Any] = {"event": "epoch", "epoch": epoch.number, "epochs": epoch.of}
        facts["seconds"] = round(epoch.seconds, 3)
        print_json({**facts, **epoch.standing, **epoch.metrics})
