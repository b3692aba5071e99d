"""Local worker processes: each runs one cell after another, so that imports are paid once."""

import gc
import multiprocessing as mp
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn, Self

from lightning_transfer.study.cells import Cell

_STOP_SECONDS = 30.0  # that workers have to reach the end of a step
Ended = tuple[Cell, float]  # a cell that is over, and its seconds


def run_here(cells: list[Cell], threads: int | None) -> Iterator[Ended]:
    """Runs cells in this process.

    Args:
        cells: What to run.
        threads: CPU threads; torch's own choice if None.

    Yields:
        Each cell once it is over, and its seconds.

    Raises:
        SystemExit: Where this process is asked to stop: the cell goes on at the next start.
    """
    if threads is not None:
        _use(threads)
    for cell in cells:
        yield cell, cell.run()


class Workers:
    """Worker processes, which run one cell after another as long as the context lasts. Each starts when it is needed.

    A worker that dies takes one cell with it, which is recorded as failed.

    Args:
        number: How many; with several GPUs they take turns.
        threads: CPU threads of each; the cores divided by the workers if None.
    """

    def __init__(self, number: int, threads: int | None) -> None:
        self._threads = threads or max(1, (os.cpu_count() or 1) // number)
        self._not_started = list(range(number))
        self._idle: list[_Worker] = []
        self._busy: dict[Any, tuple[_Worker, Cell]] = {}  # by connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        workers = [*self._idle, *(worker for worker, _ in self._busy.values())]
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()

    def run(self, cells: list[Cell]) -> Iterator[Ended]:
        """Runs cells.

        Args:
            cells: What to run, in this order.

        Yields:
            Each cell once it is over, in the order in which they end, and its seconds.

        Raises:
            SystemExit: Where a worker is asked to stop: all of them do, and their cells go on at the next start.
        """
        waiting = list(reversed(cells))
        while waiting or self._busy:
            while waiting and (self._idle or self._not_started):
                worker = self._idle.pop() if self._idle else _Worker(self._not_started.pop(0), self._threads)
                cell = waiting.pop()
                worker.connection.send(cell)
                self._busy[worker.connection] = (worker, cell)
            for connection in wait(list(self._busy)):
                yield self._receive(connection)

    def _receive(self, connection: Any) -> Ended:
        worker, cell = self._busy.pop(connection)
        try:
            seconds: float = connection.recv()
        except (EOFError, ConnectionError):
            worker.process.join()
            status = worker.process.exitcode or 0
            if signum := _stop_signal(status):
                self._stop(signum)
            cell.fail(f"its process ended with exit status {status}")
            self._not_started.append(worker.number)
            return cell, 0.0
        self._idle.append(worker)
        return cell, seconds

    def _stop(self, signum: int) -> NoReturn:
        """Lets the workers stop at their next step, with a checkpoint, as one of them has."""
        busy = [worker.process for worker, _ in self._busy.values()]
        for process in busy:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signum)
        deadline = time.monotonic() + _STOP_SECONDS
        for process in busy:
            process.join(max(0.0, deadline - time.monotonic()))
        raise SystemExit(128 + signum)


def _stop_signal(status: int) -> int:
    """The signal on which a worker has stopped, within a training or outside; 0 where it ended in another way."""
    signum = status - 128 if status > 128 else -status
    return signum if signum in (signal.SIGTERM, signal.SIGUSR1) else 0


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
    import lightning_transfer.cli.experiment  # noqa: F401  # now: before what is there is frozen

    _use(threads)
    _choose_gpu(number)
    gc.freeze()  # to look through all that after each cell would take half a second
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
    os.environ["OMP_NUM_THREADS"] = str(threads)  # of the ranks that a run starts; Lightning would take all cores


def _choose_gpu(number: int) -> None:
    import torch

    if (count := torch.cuda.device_count()) > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[number % count]
