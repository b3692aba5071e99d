"""Writes the report: one HTML page about one run or many, from the files that they left."""

import html
from collections.abc import Mapping, Sequence

from lightning_transfer.report.findings import findings
from lightning_transfer.report.line_charts import Curves
from lightning_transfer.report.page import page
from lightning_transfer.report.results_table import results_table
from lightning_transfer.report.run_files import Run
from lightning_transfer.report.run_section import run_section
from lightning_transfer.report.style import SCRIPT
from lightning_transfer.report.tasks import Task, brief_names, is_share, tasks_of

_NAMED_LINES = 8  # with more runs, the strategy gives a line its colour


def report(runs: Sequence[Run], title: str) -> str:
    """Writes the page: what was found, then each task with its table, its curves and its runs.

    Args:
        runs: The runs, at least one.
        title: Title of the page.
    """
    tasks = tasks_of(runs)
    compared = [task for task in tasks if not task.is_source]
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for task in compared:
        name = f"{task.title}: " if len(compared) > 1 else ""
        parts += [f'<p class="headline">{html.escape(name + sentence)}</p>' for sentence in findings(task)]
    for task in tasks:
        parts += _task(task, is_open=len(runs) == 1)
    return page(title, "\n".join([*parts, f"<script>{SCRIPT}</script>"]))


def _task(task: Task, is_open: bool) -> list[str]:
    names = brief_names([run.name for run in task.runs])
    parts = [f"<h2>{html.escape(task.title)}</h2>"]
    if task.facts:
        parts.append(f'<p class="muted">{task.facts}</p>')
    if task.is_source:
        parts += [f"<p>{html.escape(sentence)}</p>" for sentence in findings(task)]
    parts.append(results_table(task, names))
    if len(task.runs) > 1:
        parts.append(_comparison(task, names))
    return [*parts, *(run_section(run, "Details" if is_open else names[run.name], is_open) for run in task.ranked)]


def _comparison(task: Task, names: Mapping[str, str]) -> str:
    runs, is_crowded = task.runs, len(task.runs) > _NAMED_LINES
    labels = [run.strategy or "strategy not recorded" if is_crowded else names[run.name] for run in runs]
    places = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    numbers = {names[run.name]: places[label] for run, label in zip(runs, labels, strict=True)}
    best = {names[run.name]: run.best_validation()[0] for run in runs}
    charts = []
    for title, tag in dict.fromkeys(((task.metric, f"val/{task.metric}"), ("loss", "val/loss"))):
        lines = {names[run.name]: run.scalars.get(tag, []) for run in runs}
        percent = is_share(tag, (value for points in lines.values() for _, value in points))
        unit = f"{title.replace('_', ' ')}, %" if percent else title.replace("_", " ")
        keys = places if is_crowded else None
        charts.append(Curves(f"Validation {unit}", lines, unit, percent, numbers, keys, best).html())
    return f'<div class="charts">{"".join(charts)}</div>'
