"""Ends a process that Python has started from another, when that one ends."""

import contextlib
import multiprocessing
import os
import signal


def end_after_parent(*others: int) -> None:
    """Waits for the end of the parent, then ends this process at once, and others. Without a parent it does nothing.

    Args:
        others: The ids of those others.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    parent.join()
    for process in others:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    os._exit(1)
