"""Runs the unfinished cells of a study, stage by stage, and reports the progress."""

from collections.abc import Callable, Iterator
from statistics import fmean

from lightning_transfer.errors import UserError
from lightning_transfer.study.cells import Cell
from lightning_transfer.study.plan import Plan
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
    progress = _Progress(plan.study.metric, [*pretraining, *tuning, *plan.final()], parallel, retry_failed)
    # These run together, because the other workers would otherwise be idle while one pretrains.
    beside = [cell for cell in tuning if not _needs(cell, pretraining)]
    _run_stage([*pretraining, *beside], execute, retry_failed, progress)
    # The plan is made again: only now it is known whether a pretraining has a best checkpoint, or only its last.
    waiting = [cell for cell in plan.tuning() if _needs(cell, pretraining)]
    _run_stage(waiting, execute, retry_failed, progress)
    choices = choose(plan.study, tuning)
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


def _run_stage(cells: list[Cell], execute: Execute, retry_failed: bool, progress: "_Progress") -> None:
    for cell in cells:
        cell.check_unchanged()
    for cell in cells:
        if retry_failed and cell.failure:
            cell.forget()
        _check(cell, progress.metric)
    for cell, seconds in execute([cell for cell in cells if not cell.is_over]):
        progress.report(cell, seconds)
        _check(cell, progress.metric)


def _needs(cell: Cell, pretraining: list[Cell]) -> bool:
    """Says whether a cell uses a pretraining: its weights, or its vocabulary by an override."""
    return any(source.name in argument for source in pretraining for argument in cell.arguments)


def _check(cell: Cell, metric: str) -> None:
    """Refuses early what would make later runs useless: a failed pretraining or a mistyped metric."""
    if cell.kind == "pretraining" and cell.failure:
        raise UserError(f"{cell.folder} failed ({cell.failure}), see its log.txt: --retry_failed runs it again")
    if cell.arm and cell.is_finished:
        cell.score(metric)


class _Progress:
    """Prints a line for each cell that ends, with an estimate of the time left.

    Args:
        metric: Metric of the study.
        cells: All cells of the study.
        parallel: Number of cells that run at a time.
        retry_failed: Whether failed cells are run again.
    """

    def __init__(self, metric: str, cells: list[Cell], parallel: int, retry_failed: bool) -> None:
        self.metric = metric
        self.total = len(cells)
        left = [cell for cell in cells if not cell.is_finished and (retry_failed or not cell.failure)]
        self.left = {cell.name: cell.size for cell in left}
        self.parallel = parallel
        self.run_seconds = 0.0
        self.seconds: dict[float | None, list[float]] = {}  # seconds of the finished cells, by size

    def report(self, cell: Cell, seconds: float) -> None:
        """Prints the line of a cell."""
        self.left.pop(cell.name, None)
        self.run_seconds += seconds
        result = cell.result
        if result is None:
            outcome = f"FAILED: {cell.failure}" if cell.failure else "stopped before its end"
        else:
            self.seconds.setdefault(cell.size, []).append(seconds)
            metrics = {**(result["validation"] or {}), **(result["test"] or {})}
            outcome = "  ".join(
                f"{name} {value:.4f}" for name, value in metrics.items() if name.endswith(f"/{self.metric}")
            )
        done = f"{self.total - len(self.left)}/{self.total}"
        print(f"{done}  {cell.name}  {outcome}  {seconds:.1f} s{self._time_left()}", flush=True)

    def _time_left(self) -> str:
        if not self.left or not self.seconds:
            return ""
        every = fmean(second for seconds in self.seconds.values() for second in seconds)
        left = sum(fmean(self.seconds[size]) if size in self.seconds else every for size in self.left.values())
        return f"  about {_duration(left / min(self.parallel, len(self.left)))} left"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
