"""Names a run's event files in the order in which they were written, by which TensorBoard reads them."""

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.core.saving import save_hparams_to_yaml
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.summary.writer import event_file_writer

from lightning_transfer.files import replacing

_STAMP = re.compile(r"events\.out\.tfevents\.(\d+)\.")


class OrderedEventFiles(TensorBoardLogger):
    """Writes event files, the newest of which has the last name, also where the clock is behind that of the others.

    TensorBoard and the report read the files of a run by their names, which begin with the second of their making. A
    file that goes on with a run, and has an earlier name, would hide the curves of before.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer of the event file, which is made when it is first asked for."""
        if self._experiment is not None:
            return self._experiment
        with _named_after(Path(self.log_dir)):
            return super().experiment

    @rank_zero_only
    def save(self) -> None:
        """Writes what has been logged, and once the hyperparameters, which a killed process never leaves by half."""
        file = Path(self.log_dir) / self.NAME_HPARAMS_FILE
        if file.parent.is_dir() and not file.exists():
            with replacing(file) as partial:
                save_hparams_to_yaml(partial, self.hparams)
        super().save()


@contextlib.contextmanager
def _named_after(folder: Path) -> Iterator[None]:
    """Has the event file that is made in a block named after those of a folder."""
    stamps = [int(stamp[1]) for file in folder.glob("events.*") if (stamp := _STAMP.match(file.name))]
    if max(stamps, default=-1) < int(time.time()):
        yield
        return
    # The name is taken from the writer's first look at the clock. The later ones say when to write to the disk.
    first = iter([max(stamps) + 1])
    event_file_writer.time = SimpleNamespace(time=lambda: next(first, time.time()))
    try:
        yield
    finally:
        event_file_writer.time = time
