"""Hears the signals that ask a command to stop, and says in one line how to go on."""

import contextlib
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType, TracebackType
from typing import Any, NoReturn, TextIO

from lightning_transfer.cluster.launchers import is_launched_child
from lightning_transfer.cluster.lost_outputs import lost_outputs, send_nowhere

SIGUSR1 = getattr(signal, "SIGUSR1", None)  # Windows has none
SIGHUP = getattr(signal, "SIGHUP", None)  # likewise
SIGNALS = tuple(number for number in (signal.SIGINT, signal.SIGTERM, SIGHUP, SIGUSR1) if number is not None)
GO_ON = "go on: "  # begins the line that says how
_READER_ENDS = 50  # milliseconds in which a signal to all processes also ends who reads the output, such as tee
_SIGNALLED = 128  # a process that a signal ended has this status plus the signal's number


class _Interrupted(KeyboardInterrupt):
    """Ctrl-C. Where Python's own class has passed through ``exec``, Python ends by the signal, without a status."""


class StopSignals:
    """A context in which a signal that asks to stop ends the command in order, or lets its training save first.

    The signals are SIGINT (Ctrl-C), SIGTERM, SIGHUP (the terminal is gone) and SIGUSR1. Within training, a signal is
    noted for the next step boundary. Outside, it ends the process with exit status 128 plus its number. A second Ctrl-C
    ends the process wherever it is. Schedulers send SIGUSR1 ahead of a time limit: if a training follows, it waits for
    the first step, and after the training it has no effect.

    Args:
        is_training_ahead: Whether a training may follow.
    """

    def __init__(self, is_training_ahead: bool = True) -> None:
        self.received = 0  # the number of the signal that was noted; the highest if there were several, 0 if none
        self.ended_by = 0  # the number of the signal that has ended what ran here
        self.training = False
        self.on_signal: Any = lambda: None  # called when a signal is noted
        # After SIGUSR1 the job is requeued, which makes SLURM send SIGTERM: that must not end the process any more.
        self.stopping = False
        self._is_training_ahead = is_training_ahead
        self._process = os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # Python allows signal handlers only there
            # Who ignores Ctrl-C or the end of a terminal goes on to: a worker of a study does the one, and its study
            # decides; nohup asks for the other. The script of a SLURM job ignores SIGUSR1, which is for this process.
            ignored = [signum for signum in SIGNALS if signal.getsignal(signum) == signal.SIG_IGN]
            heard = [signum for signum in SIGNALS if signum == SIGUSR1 or signum not in ignored]
            self._previous = {signum: signal.signal(signum, self._handle) for signum in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def no_training_follows(self) -> None:
        """Has SIGUSR1 end the process at once, also one that has come already."""
        self._is_training_ahead = False
        if self.received:
            self._end(self.received)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a process that was forked from this one, such as a worker that loads data
            if signum == signal.SIGTERM:
                raise SystemExit(_SIGNALLED + signum)
            return  # a terminal sends the others to all: the first process decides
        _leave_lost_outputs(_READER_ENDS)
        is_ctrl_c = signum == signal.SIGINT
        if (self.stopping or self.ended_by) and not is_ctrl_c:
            return
        is_noted = self.training or (signum == SIGUSR1 and self._is_training_ahead)
        if is_noted and not (is_ctrl_c and self.received):
            self.received = max(self.received, signum)
            self.on_signal()
            return
        self._end(signum)

    def _end(self, signum: int) -> NoReturn:
        self.ended_by = signum
        if signum == signal.SIGINT:
            raise _Interrupted
        raise SystemExit(_SIGNALLED + signum)


@contextlib.contextmanager
def ends_in_one_line(words: Sequence[str], goes_on: bool = False) -> Iterator[StopSignals]:
    """Has a signal that ends a command leave one line, and the exit status that shells expect.

    The line says how to go on: by the note that an exception has which begins with ``go on: ``, or by the command.

    Args:
        words: The command line without the name of the program.
        goes_on: Whether the command goes on where it stopped when it is given again.

    Raises:
        SystemExit: If a signal has ended the command.
    """
    with StopSignals() as signals:
        try:
            yield signals
        except BaseException as error:
            # A library may have made another error of it.
            signum = signals.ended_by or _signal_of(error)
            if not signum:
                raise
            if not is_launched_child():
                say_last(_how_to_go_on(error, signum, words, goes_on), sys.stderr)
            raise SystemExit(_SIGNALLED + signum) from None


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Has signals to stop wait for the end of a block; processes that it starts hear none, until they let them through.

    Windows holds none back.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_through() -> None:
    """Has this process hear the signals that its parent has held back."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _signal_of(error: BaseException) -> int:
    """Finds the signal behind an exception; 0 if there is none."""
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
        return signal.SIGINT
    status = error.code if isinstance(error, SystemExit) else None
    return status - _SIGNALLED if isinstance(status, int) and status - _SIGNALLED in SIGNALS else 0


def _how_to_go_on(error: BaseException, signum: int, words: Sequence[str], goes_on: bool) -> str:
    for note in getattr(error, "__notes__", ()):
        if note.startswith(GO_ON):
            return str(note)
    command = shlex.join(["lightning-transfer", *words])
    return f"{GO_ON}{command}" if goes_on else f"{signal.Signals(signum).name}: stopped; start again: {command}"


def say_last(line: str, stream: TextIO) -> None:
    """Prints one of the last lines of a command. Who would read it may have ended by the same signal, as ``| tee``."""
    _leave_lost_outputs()
    try:
        print(line, file=stream, flush=True)
    except OSError:
        _leave_lost_outputs()  # otherwise Python would try again as it ends, and change the exit status


def _leave_lost_outputs(milliseconds: int = 0) -> None:
    for descriptor in lost_outputs((1, 2), milliseconds):
        send_nowhere(descriptor)
