"""Writes the table of the results of runs, which a page sorts by the column that is pressed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from lightning_transfer.report.conclusion import share_interval
from lightning_transfer.report.page import joined, table
from lightning_transfer.report.run_files import Run
from lightning_transfer.report.tasks import Task, is_share

Row = dict[str, Any]
_NAMES = {"run", "strategy"}
_NOTE = "After a test accuracy: its 95 % interval over the test examples. Another seed may give another result."


def results_table(task: Task, names: dict[str, str]) -> Markup:
    """Writes the table of a task: the test first, and the best run on top.

    Args:
        task: The runs.
        names: The name that is shown of each run.

    Returns:
        The table that fits a page, then one of all other metrics, which is folded.
    """
    decides = (f"test/{task.metric}", f"val/{task.metric}")
    rows = [_row(run, names[run.name]) for run in task.ranked]
    settings = ("best epoch", "strategy", "seed", "training examples", "seconds")
    columns = _columns(("run", *decides, "val/loss", *settings), rows)
    parts = [Markup('<div class="scroll results">{}</div>').format(_table(columns, rows))]
    if any(column.has_interval(row) for column in columns for row in rows):
        parts.append(Markup('<p class="muted">{}</p>').format(_NOTE))
    logged = {name for row in rows for name in row if name.startswith(("val/", "test/"))}
    others = sorted(logged - {column.name for column in columns})
    if others:
        element = Markup(
            '<details class="numbers"><summary>other metrics</summary><div class="scroll">{}</div></details>'
        )
        parts.append(element.format(_table(_columns(("run", *others), rows), rows)))
    return joined(parts)


def _row(run: Run, name: str) -> Row:
    """Collects a run's results, or its state so far if it has no ``results.json``."""
    best_step, validation = run.best_validation()
    hyperparameters = run.data.get("run/hyperparameters", {})
    row = {
        **validation,
        **run.tested,
        "run": name,
        "strategy": run.strategy,
        "seed": run.seed,
        "training examples": run.facts.get("train_examples", hyperparameters.get("training examples")),
        "test examples": run.facts.get("test_examples"),
        "best epoch": None if best_step is None else run.epoch_of(best_step),
        "epochs": run.results.get("epochs", len(run.scalars.get("val/loss", [])) or None),
        "seconds": run.results.get("fit_seconds"),
    }
    return {column: value for column, value in row.items() if value not in (None, "")}


@dataclass(frozen=True)
class _Column:
    """A column of the table: its name, whether it is in percent, and the value that is best of several."""

    name: str
    is_percent: bool
    best: float | None

    @property
    def title(self) -> str:
        stage, _, metric = self.name.rpartition("/")
        words = f"{'validation' if stage == 'val' else stage} {metric.replace('_', ' ')}".strip()
        return f"{words}, %" if self.is_percent else words

    def has_interval(self, row: Row) -> bool:
        """Tells whether the cell has an interval over the test examples."""
        is_share_of_examples = self.name == "test/accuracy" and self.is_percent and self.name in row
        return is_share_of_examples and bool(row.get("test examples"))

    def cell(self, row: Row) -> Markup:
        value: Any = row.get(self.name)
        if self.name == "run":
            name = joined(re.split(r"(?<=[/_])", value), Markup("<wbr>"))
            return Markup('<th scope="row" class="name">{}</th>').format(name)
        if self.name == "strategy":
            return Markup('<td class="name">{}</td>').format(value or "")
        words = "" if value is None else self._words(value)
        if value is not None and value == self.best:
            words = Markup("<strong>{}</strong>").format(words)
        key = -1 if value is None else value
        return Markup('<td data-value="{}">{}{}</td>').format(key, words, self._note(row))

    def _words(self, value: float) -> str:
        if self.is_percent:
            return f"{100 * value:.2f}"
        if self.name == "seconds":
            return f"{value:,.1f}"
        if isinstance(value, float):
            return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"
        return f"{value:,}" if isinstance(value, int) else str(value)

    def _note(self, row: Row) -> Markup:
        if self.name == "best epoch" and self.name in row and "epochs" in row:
            return Markup(' <span class="muted">of {}</span>').format(row["epochs"])
        if self.has_interval(row):
            low, high = share_interval(row[self.name], row["test examples"])
            return Markup(' <span class="muted">{:.1f} to {:.1f}</span>').format(100 * low, 100 * high)
        return Markup("")


def _columns(names: Sequence[str], rows: Sequence[Row]) -> list[_Column]:
    columns = []
    for name in dict.fromkeys(names):
        values = [row[name] for row in rows if name in row]
        is_compared = name in ("val/accuracy", "test/accuracy") and len(rows) > 1
        if values:
            is_percent = is_share(name, values)
            columns.append(_Column(name, is_percent, max(values) if is_compared else None))
    return columns


def _table(columns: Sequence[_Column], rows: Sequence[Row]) -> Markup:
    heads = [
        Markup('<th scope="col" class="{}"><button>{}</button></th>').format(
            "name" if column.name in _NAMES else "number", column.title
        )
        for column in columns
    ]
    lines = [Markup("<tr>{}</tr>").format(joined(column.cell(row) for column in columns)) for row in rows]
    return table(heads, lines, head=Markup("{}"))
