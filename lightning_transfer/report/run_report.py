"""Writes the report: one HTML page about one run or many, from the files that they left."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from lightning_transfer.report.findings import findings
from lightning_transfer.report.line_charts import Curves
from lightning_transfer.report.page import joined, page
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
    parts = [Markup("<h1>{}</h1>").format(title)]
    for task in compared:
        name = f"{task.title}: " if len(compared) > 1 else ""
        parts += [Markup('<p class="headline">{}</p>').format(name + sentence) for sentence in findings(task)]
    for task in tasks:
        parts += _task(task, is_open=len(runs) == 1)
    return page(title, joined([*parts, Markup("<script>{}</script>").format(Markup(SCRIPT))], Markup("\n")))


def _task(task: Task, is_open: bool) -> list[Markup]:
    names = brief_names([run.name for run in task.runs])
    parts = [Markup("<h2>{}</h2>").format(task.title)]
    if task.facts:
        parts.append(Markup('<p class="muted">{}</p>').format(task.facts))
    if task.is_source:
        parts += [Markup("<p>{}</p>").format(sentence) for sentence in findings(task)]
    parts.append(results_table(task, names))
    if len(task.runs) > 1:
        parts.append(_comparison(task, names))
    return [*parts, *(run_section(run, "Details" if is_open else names[run.name], is_open) for run in task.ranked)]


def _comparison(task: Task, names: Mapping[str, str]) -> Markup:
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
    return Markup('<div class="charts">{}</div>').format(joined(charts))
