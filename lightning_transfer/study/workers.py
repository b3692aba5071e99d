"""Runs cells in local worker processes; each runs many cells, so that it imports only once."""

import gc
import importlib
import multiprocessing as mp
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Self

from tqdm import tqdm

from lightning_transfer.cluster.orphans import end_after_parent
from lightning_transfer.cluster.signals import SIGNALS, SIGUSR1, held_back, let_through
from lightning_transfer.study.cells import Cell

_EXPERIMENT = "lightning_transfer.cli.experiment"  # imports all that a run needs
_STOP_SECONDS = 30.0  # time that workers have to reach the end of a step
Ended = tuple[Cell, float]  # a cell that is over, and its seconds


def run_here(cells: list[Cell], threads: int | None) -> Iterator[Ended]:
    """Runs cells in this process.

    Args:
        cells: The cells to run.
        threads: Number of CPU threads; torch's own choice if None.

    Yields:
        Each cell once it is over, and its seconds.

    Raises:
        SystemExit: If this process is asked to stop. The cell goes on at the next start.
    """
    if threads is not None:
        _use(threads)
    for cell in cells:
        yield cell, cell.run()


class Workers:
    """Keeps worker processes, which run one cell after another until the context ends. Each starts when it is needed.

    If a worker dies, its cell is recorded as failed.

    Args:
        number: Number of workers. If there are several GPUs, the workers are spread over them.
        threads: CPU threads of each worker; the cores divided by the workers if None.
    """

    def __init__(self, number: int, threads: int | None) -> None:
        self._threads = threads or max(1, (os.cpu_count() or 1) // number)
        self._not_started = list(range(number))
        self._idle: list[_Worker] = []
        self._busy: dict[Any, tuple[_Worker, Cell]] = {}  # connection -> worker and cell

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        workers = [*self._idle, *(worker for worker, _ in self._busy.values())]
        try:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                self._stop(error)
        finally:
            for worker in workers:
                worker.process.kill()
            for worker in workers:
                worker.process.join()

    def run(self, cells: list[Cell]) -> Iterator[Ended]:
        """Runs cells.

        Args:
            cells: The cells to run, in this order.

        Yields:
            Each cell once it is over, in the order in which they end, and its seconds.

        Raises:
            SystemExit: If a worker is asked to stop. The context then stops the others.
        """
        waiting = list(reversed(cells))
        while waiting or self._busy:
            while waiting and (self._idle or self._not_started):
                with held_back():  # no worker is left unknown, and the server that forks them hears no signal
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
                raise SystemExit(128 + signum) from None
            cell.fail(f"its process ended with exit status {status}")
            self._not_started.append(worker.number)
            return cell, 0.0
        self._idle.append(worker)
        return cell, seconds

    def _stop(self, reason: KeyboardInterrupt | SystemExit) -> None:
        """Makes all workers stop at their next step with a checkpoint, and waits for them."""
        # A cell that gets SIGUSR1 also puts its SLURM job back into the queue.
        asked = reason.code if isinstance(reason, SystemExit) else None
        signum = SIGUSR1 if SIGUSR1 is not None and asked == 128 + SIGUSR1 else signal.SIGTERM
        busy = [worker.process for worker, _ in self._busy.values()]
        for process in busy:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signum)
        deadline = time.monotonic() + _STOP_SECONDS
        for process in busy:
            process.join(max(0.0, deadline - time.monotonic()))


def _stop_signal(status: int) -> int:
    """Finds the signal that stopped a worker, within a training or outside; 0 if it ended in another way."""
    signum = status - 128 if status > 128 else -status
    return signum if signum in SIGNALS else 0


class _Worker:
    """A process, and the connection to it."""

    def __init__(self, number: int, threads: int) -> None:
        self.number = number
        # A fork of this process would inherit the locks of threads and the connections to its siblings.
        if sys.platform == "linux":  # a server that has imported everything once forks workers, which share its memory
            context = mp.get_context("forkserver")
            context.set_forkserver_preload([_EXPERIMENT])
        else:
            context = mp.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_work, args=(theirs, number, threads, dict(os.environ)))
        self.process.start()
        theirs.close()  # otherwise the end of the process would go unnoticed


def _work(connection: Connection, number: int, threads: int, environment: dict[str, str]) -> None:
    """Runs the cells that come over the connection, until the connection ends."""
    os.environ.clear()  # that of the server may be of an earlier study
    os.environ.update(environment)
    let_through()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the parent decides
    threading.Thread(target=end_after_parent, daemon=True).start()  # at once, even in the middle of a fit
    importlib.import_module(_EXPERIMENT)  # before gc.freeze
    # The lock that bars would make is a semaphore of the system, which Python reports as leaked once this is killed.
    tqdm.set_lock(threading.RLock())

    _use(threads)
    _choose_gpu(number)
    gc.freeze()  # otherwise the collection after each cell would take half a second
    while True:
        try:
            cell = connection.recv()
        except EOFError:  # the study ends
            return
        seconds = cell.run()
        gc.collect()  # a trainer is a cycle of references, so its memory stays until a collection
        connection.send(seconds)


def _use(threads: int) -> None:
    import torch  # imported late: reading the study's file does not need it

    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for the ranks that a run starts; Lightning would use all cores


def _choose_gpu(number: int) -> None:
    import torch

    if (count := torch.cuda.device_count()) > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[number % count]
