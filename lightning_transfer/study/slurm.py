"""Runs cells as jobs of a SLURM array, by submitit. An interrupted study finds its jobs again."""

import os
import re
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_transfer.errors import UserError, in_one_line
from lightning_transfer.files import read_json, write_json
from lightning_transfer.study.cells import Cell
from lightning_transfer.study.workers import Ended, run_here

POLL_SECONDS = 2.0
# A job leaves the queue shortly before its last files are visible on this machine.
GRACE_SECONDS = 20.0
_JOBS = "jobs.json"


def run_on_slurm(cells: list[Cell], folder: Path, parameters: dict[str, Any], threads: int | None) -> Iterator[Ended]:
    """Runs cells as jobs of an array, and waits for them.

    A job that is preempted or reaches its time limit goes back into the queue and resumes. A cell whose job ends
    without a result is recorded as failed.

    Args:
        cells: The cells to run.
        folder: Folder of the jobs' own files and logs, on a file system that the nodes share.
        parameters: Parameters of submitit's ``AutoExecutor``, and ``cells_per_job``, the number of cells that a job
            runs one after another, 1 by default. The start of a job costs some seconds of imports.
        threads: CPU threads of each cell; ``cpus_per_task`` if None.

    Yields:
        Each cell once it is over, and its seconds.

    Raises:
        UserError: If submitit is not installed or does not know a parameter, or if there is no SLURM.
    """
    jobs = _known_jobs(folder)
    queued = _queue(set(jobs.values()))
    new = [cell for cell in cells if jobs.get(_work(cell)) not in queued]
    if new:
        jobs |= _submit(new, jobs, folder, dict(parameters), threads)
    yield from _wait(cells, jobs)


class CellJob:
    """The work of a job: it runs those of its cells that are not over, one after another.

    Args:
        cells: The cells.
        threads: CPU threads of each cell.
    """

    def __init__(self, cells: list[Cell], threads: int) -> None:
        self.cells = cells
        self.threads = threads

    def __call__(self) -> None:
        """Runs the cells that are not over."""
        for cell, seconds in run_here([cell for cell in self.cells if not cell.is_over], self.threads):
            print(f"{cell.name}: {seconds:.1f} s", flush=True)

    def checkpoint(self) -> Any:
        """Returns the job that submitit requeues if the time limit comes between two cells."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _submit(
    cells: list[Cell], known: dict[str, str], folder: Path, parameters: dict[str, Any], threads: int | None
) -> dict[str, str]:
    """Submits an array of jobs under a new name; returns the job of each cell as that name and a place in the array.

    The jobs are recorded by that name before they are submitted, so a study that is killed in between finds them.
    """
    # On this signal a fit stops at a step boundary and requeues its job. The default signal of submitit kills it.
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"
    import submitit

    size = parameters.pop("cells_per_job", 1)
    chunks = [cells[start : start + size] for start in range(0, len(cells), size)]
    threads = threads or parameters.get("cpus_per_task", 1)
    readable = re.sub(r"[^\w.-]+", "_", parameters.get("slurm_job_name", folder.parent.name))
    name = f"{readable}-{uuid.uuid4().hex[:8]}"
    jobs = {_work(cell): f"{name}_{place}" for place, chunk in enumerate(chunks) for cell in chunk}
    try:
        executor = submitit.AutoExecutor(folder / name, cluster="slurm")
        executor.update_parameters(**{**parameters, "slurm_job_name": name})
        write_json(folder / _JOBS, known | jobs)
        with executor.batch():
            for chunk in chunks:
                executor.submit(CellJob(chunk, threads))
    except (NameError, TypeError, ValueError, RuntimeError, submitit.core.utils.FailedJobError) as error:
        raise UserError(f"slurm of the study: {in_one_line(error)}") from error
    return jobs


def _wait(cells: list[Cell], jobs: dict[str, str]) -> Iterator[Ended]:
    waiting = list(cells)
    gone: dict[str, float] = {}  # time since which a job has been missing in the queue
    while waiting:
        asked = {jobs[_work(cell)] for cell in waiting}
        missing, now = asked - _queue(asked), time.monotonic()
        gone = {job: gone.get(job, now) for job in missing}  # a job that is seen again was not gone
        for cell in list(waiting):
            if not cell.is_over and now - gone.get(jobs[_work(cell)], now) > GRACE_SECONDS:
                cell.fail(f"its job {jobs[_work(cell)]} ended without a result: see the folder of that name in slurm")
            if cell.is_over:
                waiting.remove(cell)
                yield cell, _seconds(cell)
        time.sleep(POLL_SECONDS if waiting else 0)


def _queue(jobs: set[str]) -> set[str]:
    """Returns those of the jobs that are waiting or running."""
    if not jobs:
        return set()
    names = ",".join(sorted({job.rpartition("_")[0] for job in jobs}))
    command = ["squeue", "--noheader", "--array", "--format=%j_%K", f"--name={names}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError("--launcher slurm needs SLURM's own commands on this machine: squeue was not found") from None
    if done.returncode:
        return jobs
    return jobs & set(done.stdout.replace("_N/A", "_0").split())  # a single job is not an array


def _work(cell: Cell) -> str:
    """Names what a job does: the job that ran a cell until its pause may still be queued when the cell goes on."""
    return cell.name if cell.part[1] == 1 else f"{cell.name} until {cell.part[1]}"


def _known_jobs(folder: Path) -> dict[str, str]:
    file = folder / _JOBS
    return read_json(file) if file.exists() else {}


def _seconds(cell: Cell) -> float:
    result = cell.result
    return result["fit_seconds"] if result else 0.0
