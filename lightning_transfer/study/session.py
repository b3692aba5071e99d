"""Starts a study: locks its folder, and starts the processes or the jobs that run its cells."""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from lightning_transfer.cluster.signals import say_last
from lightning_transfer.errors import UserError, require_library
from lightning_transfer.files import check_folder
from lightning_transfer.study.plan import Plan
from lightning_transfer.study.progress_lines import standing
from lightning_transfer.study.runner import Execute, run_study
from lightning_transfer.study.slurm import run_on_slurm
from lightning_transfer.study.workers import Workers, run_here

Launcher = Literal["local", "slurm"]
_SLURM_ARRAY_PARALLELISM = 256  # submitit's own default


def run_unfinished(plan: Plan, workers: int, launcher: Launcher = "local", retry_failed: bool = False) -> None:
    """Runs the unfinished cells of a study.

    Args:
        plan: The plan of the study.
        workers: Number of processes that run cells; 0 runs them in this process.
        launcher: Place where the cells run: this machine, or SLURM jobs.
        retry_failed: Whether failed cells are run again, from their start.

    Raises:
        UserError: For a number of workers below 0, and for mistakes that are found when the study starts.
        SystemExit: If a signal has stopped it.
    """
    if workers < 0:
        raise UserError(f"--workers is {workers}: expected 0 or more")
    here = launcher == "local"
    if not here:
        require_library("submitit", "--launcher slurm", "slurm")
    parallel = max(1, workers) if here else plan.study.slurm.get("slurm_array_parallelism", _SLURM_ARRAY_PARALLELISM)
    try:
        with locked(plan.folder), _executor(plan, launcher, workers) as execute:
            start = time.perf_counter()
            run_seconds = run_study(plan, execute, parallel, retry_failed)
            seconds = time.perf_counter() - start
    except (KeyboardInterrupt, SystemExit):
        elsewhere = "" if here else "; its jobs go on"
        line = f"asked to stop: {standing(plan)}{elsewhere}; the study goes on when it is started again"
        say_last(line, sys.stdout)
        raise
    if run_seconds and here:
        share = 1 - run_seconds / (seconds * parallel)
        print(f"{seconds:.0f} s with {parallel} at a time; {share:.1%} of their time was spent outside the runs")


def locked(folder: Path) -> AbstractContextManager[Any]:
    """Makes the folder of a study, and locks it against other studies.

    Raises:
        UserError: If another process has it.
    """
    check_folder(folder, "--logs")
    try:
        return FileLock(folder / ".lock", blocking=False).acquire()
    except Timeout:
        raise UserError(f"another study is running in {folder}: wait for its end, or stop it first") from None


@contextmanager
def _executor(plan: Plan, launcher: str, workers: int) -> Iterator[Execute]:
    study = plan.study
    if launcher == "slurm":
        yield partial(run_on_slurm, folder=plan.folder / "slurm", parameters=study.slurm, threads=study.threads)
    elif workers:
        with Workers(workers, study.threads) as started:
            yield started.run
    else:
        yield partial(run_here, threads=study.threads)
