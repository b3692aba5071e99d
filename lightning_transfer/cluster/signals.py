"""Notes SIGTERM, SIGINT and SIGUSR1 during training, which acts on them at the next step boundary."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGUSR1 = getattr(signal, "SIGUSR1", None)  # Windows has none
SIGNALS = (signal.SIGTERM, signal.SIGINT, *([SIGUSR1] if SIGUSR1 else []))


class StopSignals:
    """A context in which SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 do not kill the process while it trains.

    Outside training, SIGTERM ends the process at once with exit status 143. So does SIGINT with 130, and a second one
    within training. Schedulers send SIGUSR1 ahead of a time limit: before training it waits for the first step, and
    after training it has no effect.
    """

    def __init__(self) -> None:
        self.received = 0  # the number of the signal; the higher one if both came, 0 if none
        self.training = False
        self.on_signal: Callable[[], None] = lambda: None  # called when a signal is noted
        # After SIGUSR1 the job is requeued, which makes SLURM send SIGTERM: that must not end the process any more.
        self.stopping = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # Python allows signal handlers only there
            # Who ignores Ctrl-C goes on to: a worker of a study does, and its study decides. The script of a SLURM job
            # ignores SIGUSR1, which is for this process.
            ignores = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            heard = [signum for signum in SIGNALS if signum != signal.SIGINT or not ignores]
            self._previous = {signum: signal.signal(signum, self._handle) for signum in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGTERM and not (self.training or self.stopping):
            raise SystemExit(128 + signum)
        if signum == signal.SIGINT and (self.received or not self.training) and not self.stopping:
            raise KeyboardInterrupt
        self.received = max(self.received, signum)
        self.on_signal()
