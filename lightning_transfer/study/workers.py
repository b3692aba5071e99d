"""Local worker processes: each runs one cell after another, so that imports are paid once."""

import gc
import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from lightning_transfer.study.cells import Cell

Ended = tuple[Cell, float]  # a cell that is over, and its seconds


def run_here(cells: list[Cell], threads: int | None) -> Iterator[Ended]:
    """Runs cells in this process.

    Args:
        cells: What to run.
        threads: CPU threads; torch's own choice if None.

    Yields:
        Each cell once it is over, and its seconds.
    """
    if threads is not None:
        _use(threads)
    for cell in cells:
        yield cell, cell.run()


def run_in_processes(cells: list[Cell], workers: int, threads: int | None) -> Iterator[Ended]:
    """Runs cells in worker processes. A worker that dies takes one cell with it, which is recorded as failed.

    Args:
        cells: What to run, in this order.
        workers: Number of processes; with several GPUs they take turns.
        threads: CPU threads of each; the cores divided by the workers if None.

    Yields:
        Each cell once it is over, in the order in which they end, and its seconds.
    """
    threads = threads or max(1, (os.cpu_count() or 1) // workers)
    waiting = list(reversed(cells))
    busy: dict[Any, tuple[_Worker, Cell]] = {}  # by connection
    numbers = range(min(workers, len(cells)))
    idle = [_Worker(number, threads) for number in numbers]
    try:
        while waiting or busy:
            while waiting and idle:
                worker, cell = idle.pop(), waiting.pop()
                worker.connection.send(cell)
                busy[worker.connection] = (worker, cell)
            for connection in wait(list(busy)):
                worker, cell = busy.pop(connection)
                try:
                    seconds = worker.connection.recv()
                except EOFError:
                    seconds = 0.0
                    worker.process.join()
                    cell.fail(f"its process ended with exit status {worker.process.exitcode}")
                    worker = _Worker(worker.number, threads)
                idle.append(worker)
                yield cell, seconds
    finally:
        for worker in [*idle, *(worker for worker, _ in busy.values())]:
            worker.process.kill()


class _Worker:
    """A process, and the line to it."""

    def __init__(self, number: int, threads: int) -> None:
        self.number = number
        # Spawned: a forked child would inherit the parent's threads' locks, and the lines to its siblings.
        context = mp.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_work, args=(theirs, number, threads))
        self.process.start()
        theirs.close()  # or the end of the process would go unnoticed


def _work(connection: Connection, number: int, threads: int) -> None:
    """Runs what comes over the line, to its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _use(threads)
    _choose_gpu(number)
    while True:
        cell = connection.recv()
        seconds = cell.run()
        gc.collect()  # a trainer is a cycle of references: its memory would outlive it
        connection.send(seconds)


def _end_with_parent() -> None:
    """Ends this process at once, even in the middle of a fit, when its parent has been killed."""
    parent = mp.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _use(threads: int) -> None:
    import torch  # late: reading the study's file needs none

    torch.set_num_threads(threads)


def _choose_gpu(number: int) -> None:
    import torch

    if (count := torch.cuda.device_count()) > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[number % count]
