"""Implements the command ``study``, which runs the unfinished cells of a study and then writes its report."""

import shlex
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from lightning_transfer.cli.dotted_settings import parse_with_settings
from lightning_transfer.cli.mistakes import Parser
from lightning_transfer.cli.signatures import parser_of
from lightning_transfer.errors import UserError
from lightning_transfer.files import check_folder
from lightning_transfer.run.verbosity import add_verbosity_options, print_result
from lightning_transfer.study.config import Halving, Pretraining, Study, Tuning
from lightning_transfer.study.damaged import set_aside_damaged
from lightning_transfer.study.plan import Plan
from lightning_transfer.study.runner import check_unchanged
from lightning_transfer.study.session import Launcher, run_unfinished
from lightning_transfer.study.study_checks import check


def run_study(
    study: Study,
    logs: Path = Path("logs"),
    workers: int = 1,
    launcher: Launcher = "local",
    retry_failed: bool = False,
    report_only: bool = False,
    report_folder: Path | None = None,
    command: str = "lightning_transfer.run_study(...)",
) -> Path:
    """Compares strategies over training-set sizes and seeds, on equal terms, and writes a report.

    Every cell is an ordinary fit with its own folder under logs/<study>. A study that is started again goes on where it
    stopped. Finished cells are never run again, and an interrupted one resumes from its last checkpoint.

    Args:
        study: The study. On the command line each of its fields is an option.
        logs: Folder of all experiments.
        workers: Number of processes that run cells; 0 runs them in this one.
        launcher: Whether cells run here or as SLURM jobs.
        retry_failed: Whether failed cells run again, from their start.
        report_only: Whether to run nothing, and report the cells that are finished so far.
        report_folder: Folder of the report; logs/<study>/report by default.
        command: Command that the report names as the one that started the study.

    Returns:
        The HTML page of the report.

    Raises:
        UserError: If the study is at fault, or its folder was made for another one.
    """
    # late: --help and the runs need no scipy
    from lightning_transfer.study.study_report import headline, write_report
    from lightning_transfer.study.until_decided import run_until_decided

    check(study)
    if report_folder and not report_only:
        check_folder(Path(report_folder), "--report_folder")  # it is checked now, because the runs may take days
    plan = Plan(study, Path(logs))
    set_aside_damaged(plan.folder, study.metric)
    run = partial(run_unfinished, workers=workers, launcher=launcher)
    begin = partial(run, retry_failed=retry_failed)  # with a seed more, what has failed again is left
    outcomes = (
        run_until_decided(plan, check_unchanged, only_begun=True)
        if report_only
        else run_until_decided(plan, run, begin=begin)
    )
    if not outcomes.results:
        raise UserError(f"no run of the study in {plan.folder} is finished: there is nothing to report")
    page = write_report(outcomes, Path(report_folder or plan.folder / "report"), command)
    words = headline(outcomes).replace("**", "")
    record = {"event": "report", "headline": words, "page": str(page)}
    print_result(f"report: {page}", record, words)
    return page


def parser() -> Parser:
    """Builds the parser of the command: the study's fields, and how to run it."""
    parser = parser_of("study", run_study, skip={"study", "command"})
    add_verbosity_options(parser)
    parser.add_argument("--config", action="config", help="File of the study, as in configs/studies.")
    parser.add_class_arguments(Study, as_group=True)
    return parser


def main(arguments: list[str]) -> None:
    """Runs the command.

    Args:
        arguments: What follows its name on the command line.
    """
    study, options = read_study(arguments)
    runs = (argument for argument in arguments if argument != "--report_only")  # that option runs nothing
    run_study(study, **options, command=shlex.join(["lightning-transfer", "study", *runs]))


def read_study(arguments: list[str]) -> tuple[Study, dict[str, Any]]:
    """Reads a study and how to run it.

    Args:
        arguments: What follows the name of the command.

    Returns:
        The study, and the other arguments of ``run_study`` by name.

    Raises:
        UserError: If a value of the study is not valid.
    """
    given = parse_with_settings(parser(), arguments, "overrides")
    del given["config"]
    study = _study({field.name: given.pop(field.name) for field in fields(Study)})
    check(study)
    return study, given


def _study(values: dict[str, Any]) -> Study:
    """Builds the study. The parser itself would also build the classes that its overrides name."""
    values["weights"] = {
        name: Pretraining(**source) if isinstance(source, dict) else source
        for name, source in (values["weights"] or {}).items()
    }
    if tuning := values["tuning"]:
        halving = tuning["halving"]
        values["tuning"] = Tuning(**{**tuning, "halving": None if halving is None else Halving(**halving)})
    return Study(**values)
