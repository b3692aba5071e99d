"""The command ``study``: runs what is not finished of a study, then writes its report."""

import shlex
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from lightning_transfer.cli.mistakes import Parser
from lightning_transfer.errors import UserError
from lightning_transfer.files import check_folder
from lightning_transfer.study.config import Pretraining, Study, Tuning, check
from lightning_transfer.study.outcomes import Outcomes
from lightning_transfer.study.plan import Plan
from lightning_transfer.study.runner import Execute, check_unchanged, run_study
from lightning_transfer.study.slurm import run_on_slurm
from lightning_transfer.study.study_report import headline, write_report
from lightning_transfer.study.workers import Workers, run_here

_SLURM_ARRAY_PARALLELISM = 256  # submitit's own default

DESCRIPTION = """Compares strategies over training-set sizes and seeds, on equal terms, and writes a report.

Every cell is an ordinary fit with its own folder under logs/<study>. Started again, a study goes on where it stopped:
finished cells are never run again, an interrupted one resumes from its last checkpoint.
  lightning-transfer study --config configs/studies/demo.yaml --workers 2
"""


def main(arguments: list[str]) -> None:
    """Runs the command.

    Args:
        arguments: What follows its name.

    Raises:
        UserError: Where the study, or a folder made for another one, is at fault.
    """
    study, given = read_study(arguments)
    plan = Plan(study, Path(given.logs))
    if given.report_only:
        check_unchanged(plan)
    else:
        if given.report_folder:
            check_folder(Path(given.report_folder), "--report_folder")  # now: the runs may take days
        _run(plan, given.launcher, given.workers, given.retry_failed)
    outcomes = Outcomes(plan)
    if not outcomes.results:
        raise UserError(f"no run of the study in {plan.folder} is finished: there is nothing to report")
    runs = (argument for argument in arguments if argument != "--report_only")  # that option runs nothing
    command = shlex.join(["lightning-transfer", "study", *runs])
    page = write_report(outcomes, Path(given.report_folder or plan.folder / "report"), command)
    print(f"{headline(outcomes).replace('**', '')}\nreport: {page}")


def read_study(arguments: list[str]) -> tuple[Study, Any]:
    """Reads a study and how to run it.

    Args:
        arguments: Those of the command.

    Returns:
        The study, and the other options by name.

    Raises:
        UserError: For values that cannot be.
    """
    parser = Parser(prog="lightning-transfer study", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="File of the study, as in configs/studies.")
    parser.add_class_arguments(Study, as_group=True)
    parser.add_argument("--logs", type=str, default="logs", help="Folder of all experiments.")
    parser.add_argument("--workers", type=int, default=1, help="Processes that run cells; 0 runs them in this one.")
    parser.add_argument(
        "--launcher", type=Literal["local", "slurm"], default="local", help="Where cells run: here, or as SLURM jobs."
    )
    parser.add_argument("--retry_failed", action="store_true", help="Run failed cells again, from their start.")
    parser.add_argument("--report_only", action="store_true", help="Run nothing: report what is finished so far.")
    parser.add_argument(
        "--report_folder", type=str | None, help="Folder of the report; logs/<study>/report by default."
    )
    given = parser.parse_args(arguments)
    study = _study(given.as_dict())
    check(study)
    if given.workers < 0:
        raise UserError(f"--workers is {given.workers}: expected 0 or more")
    return study, given


def _run(plan: Plan, launcher: str, workers: int, retry_failed: bool) -> None:
    here = launcher == "local"
    parallel = max(1, workers) if here else plan.study.slurm.get("slurm_array_parallelism", _SLURM_ARRAY_PARALLELISM)
    try:
        with _lock(plan.folder), _executor(plan, launcher, workers) as execute:
            start = time.perf_counter()
            run_seconds = run_study(plan, execute, parallel, retry_failed)
            seconds = time.perf_counter() - start
    except SystemExit:
        print("asked to stop: started again, the study goes on", flush=True)
        raise
    if run_seconds and here:
        share = 1 - run_seconds / (seconds * parallel)
        print(f"{seconds:.0f} s with {parallel} at a time, of whose time {share:.1%} was spent outside the runs")


def _lock(folder: Path) -> AbstractContextManager[Any]:
    """Makes the folder of the study, and keeps other studies out of it."""
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


def _study(given: dict[str, Any]) -> Study:
    """Builds the study. The parser itself would build the classes that its overrides name, too."""
    values = {field.name: given[field.name] for field in fields(Study)}
    values["weights"] = {
        name: Pretraining(**source) if isinstance(source, dict) else source
        for name, source in (values["weights"] or {}).items()
    }
    values["tuning"] = values["tuning"] and Tuning(**values["tuning"])
    return Study(**values)
