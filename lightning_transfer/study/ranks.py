"""Permits several runs with ranks in one process, although Lightning expects one such run per process."""

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

_END_SECONDS = 10.0  # time that other ranks have to end after the first one


@contextlib.contextmanager
def ranks_of_one_run() -> Iterator[None]:
    """Permits a run to start ranks in this context, and then undoes what would prevent the next run from doing so.

    The ranks end with the run, whether it succeeds or fails. If this process is killed, they end with it.
    """
    import torch.distributed  # imported late: reading the study's file does not need it

    before = dict(os.environ)
    # cluster.launchers expects this process as the parent of a rank. A worker has inherited the study's process id.
    os.environ["LIGHTNING_TRANSFER_PARENT"] = str(os.getpid())
    try:
        yield
    finally:
        _end_ranks()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        # Lightning reads LOCAL_RANK as a sign that another program starts the ranks, and takes MASTER_PORT as free.
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def _end_ranks() -> None:
    """Waits for the ranks that this process has started, and kills those that do not end."""
    ranks: list[subprocess.Popen[bytes]] = []
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            # This thread of Lightning's would kill this process too if a rank has failed. Without ranks it ends.
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
