"""Who started this process, and what follows from it: whether it is a restart, and when it must end."""

import ctypes
import os
import signal
import subprocess
import sys

_PARENT_VARIABLE = "LIGHTNING_TRANSFER_PARENT"
_PR_SET_PDEATHSIG = 1  # of Linux: prctl(2)


def is_restart() -> bool:
    """Whether SLURM or torchrun has started this job before."""
    return any(int(os.environ.get(name, 0)) > 0 for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))


def requeue() -> None:
    """Puts the SLURM job of this process back into the queue; says so where that fails. Nothing outside SLURM."""
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
    """Has this process killed when the process that launched it ends, so that no rank is left behind.

    Only where Lightning has launched it from the first rank; torchrun and srun see to their processes themselves. The
    first rank names itself as the parent of those that it will launch.

    Raises:
        SystemExit: Where the first rank has ended already.
    """
    if not is_launched_child():
        os.environ[_PARENT_VARIABLE] = str(os.getpid())
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.environ[_PARENT_VARIABLE] != str(os.getppid()):
        raise SystemExit("the first process of this run has ended")


def is_launched_child() -> bool:
    """Whether this is one of the ranks that Lightning has started from the first, on the same machine."""
    ours = _PARENT_VARIABLE in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ
    return ours and os.environ.get("LOCAL_RANK", "0") != "0"
