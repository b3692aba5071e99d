"""Tells the tasks of runs apart: runs of one task are on the same data, and only they can be compared."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from lightning_transfer.directions import Direction, direction_of
from lightning_transfer.report.conclusion import listed
from lightning_transfer.report.run_files import Run

_COUNTS = {"training": "train_examples", "validation": "validation_examples", "test": "test_examples"}


@dataclass(frozen=True)
class Task:
    """The runs of one task.

    Attributes:
        title: ``Source task``, ``Target task`` or another heading.
        runs: The runs, at least one.
        is_source: Whether runs of another task start from one of these.
    """

    title: str
    runs: Sequence[Run]
    is_source: bool = False

    @property
    def metric(self) -> str:
        """The metric that decides, without its stage: ``accuracy`` where a run has it, or that of neighbours."""
        logged = {
            name for run in self.runs for name in (*run.scalars, *run.tested, *(run.results.get("validation") or ()))
        }
        for name in ("accuracy", "knn_accuracy"):
            if logged & {f"val/{name}", f"test/{name}"}:
                return name
        selected = (str(run.results["selected_by"]) for run in self.runs if run.results.get("selected_by"))
        return next(selected, "loss").removeprefix("val/")

    @property
    def direction(self) -> Direction:
        """Whether a lower (min) or a higher (max) value of that metric is better."""
        return direction_of(self.metric) or "max"

    @property
    def ranked(self) -> list[Run]:
        """The runs, the best on the test first; then those without a test, the best on the validation first."""
        sign = -1 if self.direction == "max" else 1

        def rank(run: Run) -> list[float]:
            results = (run.tested.get(f"test/{self.metric}"), run.best_validation()[1].get(f"val/{self.metric}"))
            return [math.inf if value is None or math.isnan(value) else sign * value for value in results]

        return sorted(self.runs, key=rank)

    @property
    def facts(self) -> str:
        """The numbers of examples and of classes, in words; empty where no run has recorded them."""
        parts = []
        for split, name in _COUNTS.items():
            counts = sorted({run.facts[name] for run in self.runs if run.facts.get(name)})
            if counts:
                parts.append(f"{' or '.join(f'{count:,}' for count in counts)} {split}")
        classes = {len(found) for run in self.runs if (found := run.facts.get("training_examples_by_class"))}
        of = f" of {classes.pop()} classes" if len(classes) == 1 else ""
        return f"{listed(parts)} examples{of}" if parts else ""


def tasks_of(runs: Iterable[Run]) -> list[Task]:
    """Groups runs by the data that they were trained and tested on; tasks that others start from come last.

    A run that has not recorded its data is in a task with others that have not.
    """
    by_data: dict[str, list[Run]] = {}
    for run in runs:
        by_data.setdefault(json.dumps(run.facts.get("fingerprints"), sort_keys=True), []).append(run)
    groups = list(by_data.values())
    if len(groups) == 1:
        return [Task("Results", groups[0])]
    starts = [{other for run in group for other in _groups_of_source(run, groups)} for group in groups]
    sources = {other for number, found in enumerate(starts) for other in found - {number}}
    order = sorted(range(len(groups)), key=lambda number: number in sources)
    titles = [_title(group, place in sources, bool(starts[place] - {place})) for place, group in enumerate(groups)]
    return [Task(titles[place], groups[place], place in sources) for place in order]


def _groups_of_source(run: Run, groups: Sequence[Sequence[Run]]) -> list[int]:
    """Finds the groups with the run whose checkpoint a run started from."""
    start = f"/{run.results.get('init_from') or ''}"
    return [
        place for place, group in enumerate(groups) if any(f"/{other.name}/checkpoints/" in start for other in group)
    ]


def is_share(tag: str, values: Iterable[float]) -> bool:
    """Tells whether the values of a metric are shares from 0 to 1, which a page shows in percent, as of accuracies."""
    return tag.endswith("accuracy") and all(0 <= value <= 1 for value in values if not math.isnan(value))


def brief_names(names: Sequence[str]) -> dict[str, str]:
    """Shortens names by the words at their start and at their end that all of them share.

    Args:
        names: Different names, whose words are joined by ``/`` and ``-``.

    Returns:
        The short name of each; at least one word is left of it, and all differ. A single name stays whole.
    """
    words = [re.split(r"(?<=[/-])", name) for name in names]
    if len(names) < 2:
        return dict(zip(names, names, strict=True))
    start = _shared(words)
    ends = [[word.strip("/-") for word in reversed(found[start:])] for found in words]
    end = _shared(ends)
    return {
        name: "".join(found[start : len(found) - end]).strip("/-") for name, found in zip(names, words, strict=True)
    }


def _shared(words: Sequence[Sequence[str]]) -> int:
    """Counts the first words that all have, without the last of any."""
    columns = zip(*(found[:-1] for found in words), strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def _title(runs: Sequence[Run], is_source: bool, has_source: bool) -> str:
    if is_source:
        return "Source task"
    if has_source:
        return "Target task"
    folders = {run.name.rpartition("/")[0] for run in runs}
    return folders.pop() if len(folders) == 1 and "" not in folders else f"Task of {runs[0].name}"
