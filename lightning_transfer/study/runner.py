"""Runs the unfinished cells of a study, stage by stage, and reports the progress."""

from collections.abc import Callable, Iterator

from lightning_transfer.errors import UserError
from lightning_transfer.study.cells import Cell
from lightning_transfer.study.config import KeptCheckpoints
from lightning_transfer.study.damaged import fail_without_number
from lightning_transfer.study.halving import in_rung, rungs, stopped
from lightning_transfer.study.plan import Plan
from lightning_transfer.study.progress_lines import Progress
from lightning_transfer.study.tuning import choose, describe_edges

Execute = Callable[
    [list[Cell]], Iterator[tuple[Cell, float]]
]  # runs cells, and yields each with its seconds once it is over


def run_study(plan: Plan, execute: Execute, parallel: int, retry_failed: bool) -> float:
    """Runs the unfinished cells of a study. Failed cells are run again on request only.

    Args:
        plan: The plan of the study.
        execute: Function that runs cells.
        parallel: Number of cells that it runs at a time, for the estimate of the time left.
        retry_failed: Whether failed cells are run again, from their start.

    Returns:
        The sum of the seconds of all cells that were run, whether they finished or failed.

    Raises:
        UserError: If the settings of a cell have changed, if a pretraining failed, or if the runs do not log the metric
            of the study.
    """
    pretraining, tuning = plan.pretraining(), plan.tuning()
    execute = _dropping(execute, plan.study.keep_checkpoints)
    cells = [*pretraining, *tuning, *plan.final()]
    for cell in cells:
        if cell.is_finished:  # it may have been killed before its checkpoints were dropped
            cell.drop_checkpoints(plan.study.keep_checkpoints)
    progress = Progress(plan, cells, parallel, retry_failed)
    again = {cell.name for cell in tuning if retry_failed and cell.failure}
    progress.stop(stopped(plan.study, tuning) - again)
    progress.begin()
    # These run together, because the other workers would otherwise be idle while one pretrains.
    beside = [cell for cell in in_rung(plan.study, tuning, 0) if not _needs(cell, pretraining)]
    _run_stage([*pretraining, *beside], execute, retry_failed, progress)
    # The plan is made again: only now it is known whether a pretraining has a best checkpoint, or only its last.
    tuning = plan.tuning()
    waiting = [cell for cell in in_rung(plan.study, tuning, 0) if _needs(cell, pretraining)]
    _run_stage(waiting, execute, retry_failed, progress)
    for number in range(1, len(rungs(plan.study))):
        progress.stop(stopped(plan.study, tuning))
        _run_stage(in_rung(plan.study, tuning, number), execute, retry_failed=False, progress=progress)
    over = stopped(plan.study, tuning)
    progress.stop(over)
    choices = choose(plan.study, tuning)
    for cell in tuning:
        if cell.name in over:
            cell.drop_checkpoints(plan.study.keep_checkpoints)
    if edges := describe_edges(plan, choices):
        print(f"note: {edges}")
    _run_stage(plan.final(choices), execute, retry_failed, progress)
    return progress.run_seconds


def check_unchanged(plan: Plan) -> None:
    """Compares the settings of every cell with those that its folder was made with.

    Raises:
        UserError: For the first cell that differs.
    """
    tuning = plan.tuning()
    for cell in [*plan.pretraining(), *tuning, *plan.final(choose(plan.study, tuning))]:
        cell.check_unchanged()


def _run_stage(cells: list[Cell], execute: Execute, retry_failed: bool, progress: Progress) -> None:
    for cell in cells:
        cell.check_unchanged()
    for cell in cells:
        if (retry_failed and cell.failure) or cell.is_outdated:
            cell.forget()
        _check(cell, progress.metric)
    unfinished = [cell for cell in cells if not cell.is_over]
    progress.run(unfinished)
    for cell, seconds in execute(unfinished):
        if cell.arm:
            fail_without_number(cell, progress.metric)
        progress.report(cell, seconds)
        _check(cell, progress.metric)


def _dropping(execute: Execute, keep: KeptCheckpoints) -> Execute:
    """Has each run that finishes lose the checkpoints that are not kept."""

    def run(cells: list[Cell]) -> Iterator[tuple[Cell, float]]:
        for cell, seconds in execute(cells):
            if cell.is_finished:
                cell.drop_checkpoints(keep)
            yield cell, seconds

    return run


def _needs(cell: Cell, pretraining: list[Cell]) -> bool:
    """Says whether a cell uses a pretraining: its weights, or its vocabulary by an override."""
    return any(source.name in argument for source in pretraining for argument in cell.arguments)


def _check(cell: Cell, metric: str) -> None:
    """Refuses early what would make later runs useless: a failed pretraining or a mistyped metric."""
    if cell.kind == "pretraining" and cell.failure:
        raise UserError(f"{cell.folder} failed ({cell.failure}), see its log.txt: --retry_failed runs it again")
    if cell.arm and cell.is_finished:
        cell.score(metric)
    elif cell.is_paused:
        for metrics in cell.validated.values():
            cell.read(metrics, "val/", metric)
