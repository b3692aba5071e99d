"""A run's metrics as a table."""

import csv
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger


class MetricsFile(CSVLogger):
    """Writes ``metrics.csv`` in the run's folder, and keeps its rows where the run goes on.

    Args:
        folder: The folder of the run.
        step: Number of optimizer steps after which the run goes on: later rows are dropped. None for a new start.
    """

    def __init__(self, folder: Path, step: int | None) -> None:
        super().__init__(folder.parent, "", folder.name)
        file = folder / "metrics.csv"
        self.command = f"metrics: {file}"
        rows = []
        if step is not None and file.exists():
            with file.open(newline="") as text:
                rows = [row for row in csv.DictReader(text) if int(row["step"]) < step]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the folder has other files, which stay
            writer = self.experiment  # it deletes the earlier file, whose rows are written again at once
        writer.metrics += [{name: value for name, value in row.items() if value} for row in rows]
        self.save()

    def summarise(self, record: Mapping[str, Any], figures: Mapping[str, float]) -> None:
        """Adds nothing: ``results.json`` is beside the table."""

    def end(self, succeeded: bool) -> None:
        """Writes the rows that are still in memory."""
        self.save()
