"""Starts the process that predicts again when it has died, and ends the server with any other of its processes."""

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import litserve
from fastapi import FastAPI, HTTPException
from litserve.utils import LitAPIStatus, WorkerSetupStatus

from lightning_transfer.cluster.orphans import end_after_parent
from lightning_transfer.errors import UserError

_LOOK_SECONDS = 0.2  # how often a death is looked for
_STOP_SECONDS = 1.0  # in which a signal that ends all processes has reached the first one too
_AGAIN = "start the server again"
_LOST = "the process that predicts has died, and this request with it: send it again"


class Server(litserve.LitServer):  # type: ignore[misc]
    """LitServe's server, three processes besides the first: one predicts, one speaks HTTP, one has their queues.

    The one that predicts is started again. Meanwhile requests wait, and those that it had begun are answered 503. No
    other can be replaced, so the server ends with it. None outlives the first process.

    Attributes:
        failure: One line that says why the server has ended; None where it was asked to.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, restart_workers=True, **options)
        self.failure: str | None = None
        self.monitor_internal = _LOOK_SECONDS

    def _init_manager(self, num_api_servers: int) -> Any:
        before = multiprocessing.active_children()
        manager = super()._init_manager(num_api_servers)
        [self._queues] = set(multiprocessing.active_children()).difference(before)
        self._shutdown_event = threading.Event()  # the one of LitServe would go with the process of the queues
        return manager

    def verify_worker_status(self) -> None:
        """Waits until the run is loaded.

        Raises:
            UserError: If the process that loads it has died.
        """
        [worker] = self.inference_workers
        while WorkerSetupStatus.READY not in self.workers_setup_status.values():
            if not worker.is_alive():
                raise UserError(f"the process that predicts {_end_of(worker)}, before it was ready; {_AGAIN}")
            time.sleep(_LOOK_SECONDS)

    def launch_single_inference_worker(self, lit_api: litserve.LitAPI, worker_id: int) -> Any:
        """Starts the process that predicts again."""
        [worker] = self.inference_workers
        if worker.exitcode == 0:  # it cannot load the run any more, and has said why
            self._end(f"the process that predicts {_end_of(worker)}; {_AGAIN}")
            return worker
        print(f"the process that predicts {_end_of(worker)}; it is started again", file=sys.stderr, flush=True)
        return super().launch_single_inference_worker(lit_api, worker_id)

    def _start_server(self, *arguments: Any, **options: Any) -> dict[int, BaseProcess]:
        started: dict[int, BaseProcess] = super()._start_server(*arguments, **options)
        watched = [self._queues, *started.values()]
        threading.Thread(target=self._end_with_one_of, args=(watched,), daemon=True).start()
        return started

    def _end_with_one_of(self, processes: Sequence[BaseProcess]) -> None:
        dead = wait([process.sentinel for process in processes])
        if self._shutdown_event.wait(_STOP_SECONDS):
            return
        [first, *_] = [process for process in processes if process.sentinel in dead]
        kind = "has the queues" if first is self._queues else "speaks HTTP"
        self._end(f"the process that {kind} {_end_of(first)}; {_AGAIN}")

    def _end(self, failure: str) -> None:
        self.failure = self.failure or failure
        self._shutdown_event.set()

    def _perform_graceful_shutdown(self, *arguments: Any) -> None:
        self._shutdown_event.set()  # what ends now is not started again
        super()._perform_graceful_shutdown(*arguments)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Watches, in the process that speaks HTTP, the two that it needs."""
        threading.Thread(target=end_after_parent, args=(self._queues.pid,), daemon=True).start()
        async with super().lifespan(app):
            watch = asyncio.create_task(self._answer_what_is_lost())
            yield
            watch.cancel()

    async def _answer_what_is_lost(self) -> None:
        """Answers requests that a dead process had taken. The next one takes none before it is ready."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                states = self.workers_setup_status.values()
            except (EOFError, OSError):  # the queues are gone: nothing is answered any more, and the server ends
                os._exit(1)
            if WorkerSetupStatus.STARTING in states:
                for request in self.response_buffer.values():
                    if request.worker_id is not None and not request.event.is_set():
                        request.response = HTTPException(503, _LOST), LitAPIStatus.ERROR
                        request.event.set()


def _end_of(process: BaseProcess) -> str:
    code = process.exitcode or 0
    if code < 0:
        return f"was killed by {signal.Signals(-code).name} (memory may have run out)"
    return f"has ended with status {code}"
