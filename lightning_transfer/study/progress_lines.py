"""Says what a study runs, how far it is, how long it still takes, and what is best so far."""

from statistics import fmean

from lightning_transfer.run.verbosity import print_json, print_styled
from lightning_transfer.study.cells import Cell
from lightning_transfer.study.halving import expected_share
from lightning_transfer.study.plan import Plan


class Progress:
    """Prints how a study stands at its start, what runs first, and a line for each cell that ends.

    Args:
        plan: The plan of the study.
        cells: All cells of the study.
        parallel: Number of cells that run at a time.
        retry_failed: Whether failed cells are run again.
    """

    def __init__(self, plan: Plan, cells: list[Cell], parallel: int, retry_failed: bool) -> None:
        self._plan = plan
        self.metric = plan.study.metric
        self.total = len(cells)
        self._finished = sum(cell.is_finished for cell in cells)
        left = [cell for cell in cells if not cell.is_finished and (retry_failed or not cell.failure)]
        self._failed = self.total - self._finished - len(left)
        expected = {cell.name: expected_share(plan.study, cell) if cell.kind == "tuning" else 1.0 for cell in left}
        self.left = {cell.name: (cell.size, expected[cell.name]) for cell in left}
        self.parallel = parallel
        self.run_seconds = 0.0
        self.seconds: dict[float | None, list[float]] = {}  # seconds of the finished cells, by size
        self._waiting: list[Cell] = []  # cells of this stage, in the order in which they start
        self._best: tuple[float, str] | None = None
        for cell in cells:
            self._note(cell)

    def begin(self) -> None:
        """Prints how the study stands."""
        stopped = self.total - self._finished - self._failed - len(self.left)
        early = f"{stopped} stopped early, " if stopped else ""
        counts = f"{self._finished} finished, {self._failed} failed, {early}{len(self.left)} to run"
        print(f"{self.total} runs in {self._plan.folder}: {counts}, {self.parallel} at a time{self._best_so_far()}")

    def run(self, cells: list[Cell]) -> None:
        """Prints which cells of a stage run first, in the order in which they are given."""
        self._waiting = list(cells)
        if cells:
            names = ", ".join(cell.name for cell in cells[: self.parallel])
            print(f"running {names}; each has its log.txt{self._time_left()}", flush=True)

    def report(self, cell: Cell, seconds: float) -> None:
        """Prints the line of a cell that has ended: its result, the time left, what fails and what is best."""
        if not cell.is_paused:
            self.left.pop(cell.name, None)
        self._waiting = [other for other in self._waiting if other.name != cell.name]
        self.run_seconds += seconds
        begin, end = cell.part
        if cell.failure:
            outcome, self._failed = f"FAILED: {cell.failure}", self._failed + 1
        elif metrics := _metrics(cell):
            if end > begin:
                self.seconds.setdefault(cell.size, []).append(seconds / (end - begin))
            named = (f"{name} {value:.4f}" for name, value in metrics.items() if name.endswith(f"/{self.metric}"))
            outcome = "  ".join([*named, *([f"after {end:.0%} of its training"] if cell.is_paused else [])])
            self._note(cell)
        else:
            outcome, self._failed = "stopped before its end", self._failed + 1
        done = self.total - len(self.left)
        failed = f"  {self._failed} failed" if self._failed else ""
        following = f"  {self._running()}{self._time_left()}{failed}{self._best_so_far()}" if self.left else failed
        line = f"{done}/{self.total}  {cell.name}  {outcome}  {seconds:.1f} s{following}".rstrip()
        print_styled(line, "red" if cell.failure else "none")
        print_json({"event": "run", "done": done, "of": self.total, "folder": str(cell.folder), **_outcome(cell)})

    def stop(self, names: set[str]) -> None:
        """Leaves out the cells that train no more, because others are better."""
        self.left = {name: expected for name, expected in self.left.items() if name not in names}

    def _running(self) -> str:
        """Says how many cells run. Those of this stage start in turn."""
        running = min(self.parallel, len(self._waiting))
        return f"{running} running" if running else "next stage"

    def _time_left(self) -> str:
        if not self.left or not self.seconds:
            return ""
        every = fmean(second for seconds in self.seconds.values() for second in seconds)
        left = sum(
            share * (fmean(self.seconds[size]) if size in self.seconds else every) for size, share in self.left.values()
        )
        return f"  about {_duration(left / min(self.parallel, len(self.left)))} left"

    def _note(self, cell: Cell) -> None:
        """Notes the best run so far, by its validation split: the test split selects nothing."""
        value = _metrics(cell).get(f"val/{self.metric}") if cell.arm else None
        if value is not None:
            sign = 1 if self._plan.study.is_higher_better else -1
            if self._best is None or sign * value > sign * self._best[0]:
                self._best = (value, cell.name)

    def _best_so_far(self) -> str:
        return f"  best so far {self._best[1]} (val/{self.metric} {self._best[0]:.4f})" if self._best else ""


def standing(plan: Plan) -> str:
    """Says how many runs of a study are finished, and how many of the others have a checkpoint to go on from."""
    cells = [*plan.pretraining(), *plan.tuning(), *plan.final()]
    begun = sum((cell.folder / "checkpoints" / "last.ckpt").exists() and not cell.is_finished for cell in cells)
    finished = f"{sum(cell.is_finished for cell in cells)} of {len(cells)} runs are finished"
    return f"{finished}, {begun} {'has' if begun == 1 else 'have'} a checkpoint" if begun else finished


def _metrics(cell: Cell) -> dict[str, float]:
    """Returns the metrics of a finished run, or those of a paused one's last validation."""
    if (result := cell.result) is not None:
        return {**(result["validation"] or {}), **(result["test"] or {})}
    return cell.validated[max(cell.validated)] if cell.is_paused else {}


def _outcome(cell: Cell) -> dict[str, object]:
    result = cell.result
    if result is None:
        paused = {"validation": _metrics(cell), "paused_at": cell.part[1]}
        return paused if cell.is_paused else {"failure": cell.failure}
    return {name: result[name] for name in ("validation", "test", "fit_seconds")}


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
