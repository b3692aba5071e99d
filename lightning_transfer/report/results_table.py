"""Writes the table of the results of runs, which a page sorts by the column that is pressed."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning_transfer.report.conclusion import share_interval
from lightning_transfer.report.run_files import Run
from lightning_transfer.report.tasks import Task, is_share

Row = dict[str, Any]
_NAMES = {"run", "strategy"}
_NOTE = "After a test accuracy: its 95 % interval over the test examples. Another seed may give another result."


def results_table(task: Task, names: dict[str, str]) -> str:
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
    table = f'<div class="scroll results">{_table(columns, rows)}</div>'
    if any(column.has_interval(row) for column in columns for row in rows):
        table += f'<p class="muted">{_NOTE}</p>'
    logged = {name for row in rows for name in row if name.startswith(("val/", "test/"))}
    others = sorted(logged - {column.name for column in columns})
    if others:
        more = f'<div class="scroll">{_table(_columns(("run", *others), rows), rows)}</div>'
        table += f'<details class="numbers"><summary>other metrics</summary>{more}</details>'
    return table


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
        return self.name == "test/accuracy" and self.is_percent and {self.name, "test examples"} <= row.keys()

    def cell(self, row: Row) -> str:
        value: Any = row.get(self.name)
        if self.name == "run":
            name = html.escape(value).replace("/", "/<wbr>").replace("_", "_<wbr>")
            return f'<th scope="row" class="name">{name}</th>'
        if self.name == "strategy":
            return f'<td class="name">{html.escape(value or "")}</td>'
        words = "" if value is None else self._words(value)
        if value is not None and value == self.best:
            words = f"<strong>{words}</strong>"
        return f'<td data-value="{-1 if value is None else value}">{words}{self._note(row)}</td>'

    def _words(self, value: float) -> str:
        if self.is_percent:
            return f"{100 * value:.2f}"
        if self.name == "seconds":
            return f"{value:,.1f}"
        if isinstance(value, float):
            return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"
        return html.escape(f"{value:,}" if isinstance(value, int) else str(value))

    def _note(self, row: Row) -> str:
        if self.name == "best epoch" and self.name in row and "epochs" in row:
            return f' <span class="muted">of {row["epochs"]}</span>'
        if self.has_interval(row):
            low, high = share_interval(row[self.name], row["test examples"])
            return f' <span class="muted">{100 * low:.1f} to {100 * high:.1f}</span>'
        return ""


def _columns(names: Sequence[str], rows: Sequence[Row]) -> list[_Column]:
    columns = []
    for name in dict.fromkeys(names):
        values = [row[name] for row in rows if name in row]
        is_compared = name in ("val/accuracy", "test/accuracy") and len(rows) > 1
        if values:
            is_percent = is_share(name, values)
            columns.append(_Column(name, is_percent, max(values) if is_compared else None))
    return columns


def _table(columns: Sequence[_Column], rows: Sequence[Row]) -> str:
    body = "".join(f"<tr>{''.join(column.cell(row) for column in columns)}</tr>" for row in rows)
    heads = "".join(
        f'<th scope="col" class="{"name" if column.name in _NAMES else "number"}">'
        f"<button>{html.escape(column.title)}</button></th>"
        for column in columns
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
