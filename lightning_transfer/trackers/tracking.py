"""Adds the trackers that ``--track`` names to a run, and ends them with it."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import CSVLogger

from lightning_transfer.errors import require_library
from lightning_transfer.files import read_json, write_json
from lightning_transfer.trackers.metrics_file import MetricsFile
from lightning_transfer.trackers.mlflow_run import MLflowRun, uses_local_store
from lightning_transfer.trackers.wandb_run import WandbRun

TrackerName = Literal["wandb", "mlflow", "csv"]
Tracker = WandbRun | MLflowRun | MetricsFile

# The file in a run's folder that holds the run's id in each tracker, for a fit that goes on.
IDS = "trackers.json"


def chosen(track: TrackerName | list[TrackerName] | None) -> list[TrackerName]:
    """Returns the trackers that ``--track`` names, each once."""
    return list(dict.fromkeys([track] if isinstance(track, str) else track or []))


def require_trackers(names: Sequence[TrackerName]) -> None:
    """Refuses trackers whose library is not installed.

    Raises:
        UserError: If a library is missing.
    """
    if "wandb" in names:
        require_library("wandb", "--track wandb")
    if "mlflow" in names:
        for library in ("mlflow", *(("sqlalchemy", "alembic") if uses_local_store() else ())):
            require_library(library, "--track mlflow", "mlflow")


@contextlib.contextmanager
def tracked(
    names: Sequence[TrackerName], folder: Path, config: Mapping[str, Any], step: int | None, is_first_rank: bool
) -> Iterator[list[Any]]:
    """Opens a run's trackers, and ends them with the context, as failed where it ends by an exception.

    Args:
        names: The trackers.
        folder: The folder of the run.
        config: The run's configuration as plain types, which becomes its hyperparameters.
        step: Number of optimizer steps in the checkpoint that the run goes on from. The run then goes on in each
            tracker too. None for a run that starts anew.
        is_first_rank: Whether this process is the first rank, which alone writes.
    """
    if not is_first_rank:
        # All ranks have to agree that there are loggers. This one would write on the first rank alone.
        yield [CSVLogger(folder) for _ in names]
        return
    file = folder / IDS
    ids: dict[str, str] = read_json(file) if step is not None and file.exists() else {}
    opened: list[Tracker] = []
    succeeded = False
    try:
        for name in names:
            opened.append(_open(name, folder, ids.get(name), step))
            opened[-1].log_hyperparams(dict(config))
            ids[name] = str(opened[-1].version)
        write_json(file, ids)
        yield opened
        succeeded = True
    finally:
        for tracker in opened:
            tracker.end(succeeded)


def _open(name: TrackerName, folder: Path, id: str | None, step: int | None) -> Tracker:
    if name == "wandb":
        return WandbRun(folder, id)
    return MLflowRun(folder, id) if name == "mlflow" else MetricsFile(folder, step)


def summarise(trackers: Sequence[Any], record: Mapping[str, Any]) -> None:
    """Enters a run's record in its trackers, and prints where each of them is looked at.

    Args:
        trackers: What :func:`tracked` gave on the first rank.
        record: The record, as ``results.json`` has it.
    """
    for tracker in trackers:
        tracker.summarise(record, figures_of(record))
        print(tracker.command)


def figures_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Picks the numbers of a record, by names under ``results/``: ``results/test/accuracy``."""
    metrics = {**(record.get("validation") or {}), **(record.get("test") or {})}
    numbers = {name: value for name, value in {**record, **metrics}.items() if isinstance(value, int | float)}
    return {f"results/{name}": float(value) for name, value in numbers.items()}
