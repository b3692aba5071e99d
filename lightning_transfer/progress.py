"""What a run says while it trains: a bar in a terminal, plain lines in a file."""

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar


def progress_bar() -> ProgressBar:
    """Chooses how to show progress: a bar where standard error is a terminal, else one line an epoch."""
    # A bar that refreshes at every step costs as much as a small network's step.
    return TQDMProgressBar(refresh_rate=50) if sys.stderr.isatty() else EpochLines()


class EpochLines(ProgressBar):
    """Prints a line at the end of each epoch: its number, its seconds and the metrics of the progress bar."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._epoch_start = 0.0

    def disable(self) -> None:
        """Stays silent: called on all ranks but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Speaks again."""
        self._enabled = True

    def on_train_start(self, *_: Any) -> None:
        """Starts the clock, also where a resumed run begins in mid-epoch."""
        self._epoch_start = time.perf_counter()

    def on_train_epoch_start(self, *_: Any) -> None:
        """Starts the clock."""
        self._epoch_start = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prints the line."""
        if not self._enabled:
            return
        metrics = self.get_metrics(trainer, pl_module)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if isinstance(value, float))
        seconds = time.perf_counter() - self._epoch_start
        of = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        print(f"epoch {trainer.current_epoch + 1}{of}  {seconds:.1f} s  {shown}", flush=True)
