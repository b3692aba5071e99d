"""Runs of several processes, one after another in the same first process: Lightning expects one in a process's life."""

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

_END_SECONDS = 10.0  # that ranks have to end once the first one has


@contextlib.contextmanager
def ranks_of_one_run() -> Iterator[None]:
    """A context in which a run may start ranks: what would keep the next run from it is undone at the end.

    The ranks end with the run, whether it succeeded or failed, and with this process where it is killed.
    """
    import torch.distributed  # late: reading the study's file needs none

    before = dict(os.environ)
    # Whom cluster.launchers expects as the parent of a rank: a worker has inherited the name of the study's process.
    os.environ["LIGHTNING_TRANSFER_PARENT"] = str(os.getpid())
    try:
        yield
    finally:
        _end_ranks()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        # Lightning takes LOCAL_RANK for a sign that another program starts the ranks, and MASTER_PORT for a free port.
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def _end_ranks() -> None:
    """Waits for the ranks that this process has started, and kills those that hang."""
    ranks: list[subprocess.Popen[bytes]] = []
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            # Lightning's, which kills this process too where a rank has failed. Without ranks it ends.
            observed: Any = getattr(thread, "_child_processes", [])
            ranks += observed
            observed.clear()
    deadline = time.monotonic() + _END_SECONDS
    for rank in ranks:
        try:
            rank.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            rank.kill()
            rank.wait()
