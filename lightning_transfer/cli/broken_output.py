"""Ends a command in order whose output, or whose thread's files, cannot be written any more."""

import contextlib
import errno
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

from lightning_transfer.cli.mistakes import message_of, print_error
from lightning_transfer.cluster.lost_outputs import lost_outputs, send_nowhere

_READER_IS_GONE = 141  # the status of a process that SIGPIPE ends: 128 plus the signal's number
_RAISED_AGAIN = "_AsyncWriterThread"  # TensorBoard's writer raises its error in the main thread too


@contextlib.contextmanager
def ends_with_output() -> Iterator[None]:
    """Ends the process where standard output cannot be written, as after ``| head`` or on a full disk.

    Raises:
        SystemExit: Status 141 where nobody reads the output any more; 2 after one line where the disk is full.
    """
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        if not _is_lost(error):
            raise
        if error.errno == errno.EPIPE:
            raise SystemExit(_READER_IS_GONE) from None
        print_error(f"standard output cannot be written: {error.strerror}; choose another place for it")
        raise SystemExit(2) from None


def _is_lost(error: OSError) -> bool:
    """Says whether standard output cannot be written. What is left of it is then dropped, so that Python can end."""
    if sys.stdout is None:
        return False
    try:
        sys.stdout.flush()
        if not (error.errno == errno.EPIPE and _has_no_reader(sys.stdout)):
            return False
    except OSError:
        pass
    send_nowhere(sys.stdout.fileno())
    return True


def _has_no_reader(stream: TextIO) -> bool:
    try:
        return bool(lost_outputs([stream.fileno()]))
    except OSError:  # a text in memory has no number
        return False


@contextlib.contextmanager
def words_failures_of_threads() -> Iterator[None]:
    """Words in one line what the operating system refuses a thread, where Python would print a traceback."""
    before = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        line = message_of(failure.exc_value) if failure.exc_value is not None else None
        if line is None:
            before(failure)
        elif type(failure.thread).__name__ != _RAISED_AGAIN:
            print_error(line)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
