"""SIGTERM and SIGUSR1: noted while training runs, for the training to act on at a step boundary."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopSignals:
    """A context in which SIGTERM and SIGUSR1 do not kill the process while it trains.

    Outside training, SIGTERM ends the process at once with exit status 143, and SIGUSR1, which schedulers send ahead
    of a time limit, waits for the first step or comes too late to matter.
    """

    def __init__(self) -> None:
        self.received = 0  # the number of the signal, the higher where both came
        self.training = False
        self.stopping = False  # a requeue sends SIGTERM after the SIGUSR1 that it answers
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            self._previous = {signum: signal.signal(signum, self._handle) for signum in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGTERM and not (self.training or self.stopping):
            raise SystemExit(128 + signum)
        self.received = max(self.received, signum)
