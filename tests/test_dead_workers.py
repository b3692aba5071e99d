"""Processes that load data: one that dies is said in a line, and none dies of a signal that is for the run."""

import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_transfer.cli.mistakes import message_of
from lightning_transfer.data.ordinary_loader import OrdinaryLoader


@pytest.fixture
def started() -> Iterator[tuple[Iterator[object], Any]]:
    """An epoch of which one batch was loaded, and the process that loads the others."""
    options: dict[str, Any] = {"num_workers": 1, "multiprocessing_context": "fork", "persistent_workers": True}
    loader = OrdinaryLoader(DataLoader(TensorDataset(torch.arange(200)), batch_size=2, **options), seed=0)
    batches = iter(loader)
    next(batches)
    inner: Any = loader._loader._iterator
    [worker] = inner._workers
    try:
        yield batches, worker
    finally:
        inner._shutdown_workers()


def test_worker_that_dies_is_one_line_with_its_cause(started: tuple[Iterator[object], Any]) -> None:
    batches, worker = started

    def load() -> None:
        os.kill(worker.pid, signal.SIGKILL)
        list(batches)

    with pytest.raises(RuntimeError) as error:  # torch raises it wherever the main thread is when the worker dies
        load()
    line = message_of(error.value)
    said = f"a worker of the DataLoader, process {worker.pid}, was killed by signal: Killed; memory may have run out"
    assert line is not None
    assert line.startswith(said)


@pytest.mark.parametrize("kind", ["TERM", "HUP", "INT"])
def test_worker_outlives_a_signal_to_all_processes(kind: str, started: tuple[Iterator[object], Any]) -> None:
    batches, worker = started
    subprocess.run(["kill", f"-{kind}", str(worker.pid)], check=True)
    assert len(list(batches)) == 99
    assert worker.is_alive()


def test_worker_ends_when_its_parent_says_so(started: tuple[Iterator[object], Any]) -> None:
    _, worker = started
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0
