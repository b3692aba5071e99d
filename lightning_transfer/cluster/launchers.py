"""Finds out who started this process, whether it is a restart, and when it must end."""

import ctypes
import os
import signal
import socket
import subprocess
import sys

from lightning_transfer.errors import UserError

_PARENT_VARIABLE = "LIGHTNING_TRANSFER_PARENT"
_PR_SET_PDEATHSIG = 1  # a constant of Linux, see prctl(2)


def is_restart() -> bool:
    """Says whether SLURM or torchrun has started this job before."""
    return any(int(os.environ.get(name, 0)) > 0 for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))


def check_address() -> None:
    """Refuses an address of the first process that does not lead to a host. All others would wait for it in vain.

    Raises:
        UserError: If ``MASTER_ADDR`` is set, and cannot be found.
    """
    address = os.environ.get("MASTER_ADDR")
    if not address:
        return
    try:
        socket.getaddrinfo(address, None)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"MASTER_ADDR is {address}: expected the name or number of the host of the first process ({error});"
            " correct it, or unset it where all processes are on one host"
        ) from error


def requeue() -> None:
    """Puts the SLURM job of this process back into the queue, and prints a failure. It does nothing outside SLURM."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
        problem = done.stderr.strip() if done.returncode else None
    except OSError as error:
        problem = str(error)
    if problem is not None:
        print(f"job {job} cannot be requeued, submit it again: {problem}", file=sys.stderr, flush=True)


def end_with_parent() -> None:
    """Has Linux kill this process when the process that launched it ends, so that no rank is left behind.

    This applies only to processes that Lightning launched from the first rank; torchrun and srun end theirs
    themselves. The first rank records its own process id, from which those that it launches know their parent.

    Raises:
        SystemExit: If the first rank has ended already.
    """
    if not is_launched_child():
        os.environ[_PARENT_VARIABLE] = str(os.getpid())
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.environ[_PARENT_VARIABLE] != str(os.getppid()):
        raise SystemExit("the first process of this run has ended")


def is_launched_child() -> bool:
    """Says whether Lightning started this rank from the first one, on the same machine."""
    ours = _PARENT_VARIABLE in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ
    return ours and os.environ.get("LOCAL_RANK", "0") != "0"
