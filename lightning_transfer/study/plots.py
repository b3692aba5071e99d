"""Draws the figures of a study's report as SVG."""

import math
from collections.abc import Callable, Sequence
from itertools import chain, pairwise

from markupsafe import Markup

from lightning_transfer.directions import is_share
from lightning_transfer.report.charts import PERCENT, UNLIMITED, Chart, Line, draw_legend, legend_height
from lightning_transfer.report.drawing import SvgCanvas
from lightning_transfer.report.palette import series
from lightning_transfer.study.outcomes import Outcome, Outcomes
from lightning_transfer.study.protocol_notes import size_name
from lightning_transfer.study.units import unit_of

_WIDTH, _EDGE, _GAP = 720, 8, 16
_SPREAD = 0.06  # of the x axis: the arms stand side by side
_SEEDS = 0.007  # of the x axis at most: the single seeds stand beside the interval of their arm


def learning_curve(outcomes: Outcomes) -> Markup:
    """Draws the metric over the number of training examples, or over another setting that the sizes change.

    Each arm has a line through its means, their 95 % intervals as bars, and its seeds as small dots. The arms stand
    side by side at each number, so that equal ones do not hide each other.
    """
    labels = _labels(outcomes)
    positions = [_position(outcomes, size) for size in _drawn(outcomes)]
    has_log_x = min(positions) > 0
    aside = min(_SEEDS, _SPREAD / (2.5 * len(labels)))  # nearer to their own arm than to the next
    lines = [_curve(outcomes, label, number, aside, _beside(positions, number, len(labels), has_log_x))
             for number, label in enumerate(labels)]  # fmt: skip
    chart = Chart(
        lines,
        x_label="training labels" if outcomes.are_sizes_of_data else str(outcomes.plan.study.size_key),
        y_label=f"test {unit_of(outcomes.plan.study).name}",
        x_ticks=positions,
        y_limits=_limits(outcomes),
        has_log_x=has_log_x,
    )
    return _figure(_described("learning curves", outcomes, labels), [chart], lines, columns=1, height=400)


def accuracy_over_seconds(outcomes: Outcomes) -> Markup:
    """Draws the metric over the seconds of training, a panel for each size, with the Pareto front as steps.

    A large mark is the mean of an arm, the small dots of its colour are its seeds.
    """
    labels = _labels(outcomes)
    panels = []
    for size in outcomes.sizes:
        found = {outcome.label: outcome for outcome in outcomes.at(size)}
        front = Line("Pareto front", _steps([found[label] for label in outcomes.pareto_front(size)]), "muted")
        marks = [_mark(label, labels.index(label), outcome) for label, outcome in found.items()]
        panels.append(
            Chart(
                [front, *marks],
                _panel_title(outcomes, size),
                x_label="training seconds",
                y_label=f"test {unit_of(outcomes.plan.study).name}",
                y_limits=_limits(outcomes),
            )
        )
    # The legend has every arm, because an arm may have finished at some sizes only.
    keys = [_mark(label, number) for number, label in enumerate(labels)]
    label = _described("score over training time", outcomes, labels)
    return _figure(label, panels, keys, columns=min(3, len(panels)), height=240)


def _figure(label: str, panels: Sequence[Chart], keys: Sequence[Line], columns: int, height: float) -> Markup:
    rows, width = math.ceil(len(panels) / columns), (_WIDTH - 2 * _EDGE + _GAP) / columns
    canvas = SvgCanvas(_WIDTH, rows * height + 2 * _EDGE + legend_height(keys, _WIDTH), label)
    for place, panel in enumerate(panels):
        left, top = _EDGE + place % columns * width, _EDGE + place // columns * height
        panel.draw(canvas, left, top, width - _GAP, height)
    draw_legend(canvas, keys, _EDGE, rows * height + _EDGE, _WIDTH - _EDGE)
    return canvas.svg()


def _curve(outcomes: Outcomes, label: str, number: int, aside: float, place: Callable[[float, float], float]) -> Line:
    drawn = _drawn(outcomes)
    found = [outcome for outcome in outcomes if outcome.label == label and outcome.scores and outcome.size in drawn]
    points, bars, single = [], [], []
    for outcome in found:
        position, summary = _position(outcomes, outcome.size), outcome.summary
        x = place(position, 0)
        points.append((x, summary.mean))
        single += [(place(position, aside), score) for score in outcome.scores.values()]
        if summary.n > 1:
            bars.append((x, summary.low, summary.high))
    return Line(label, points, series(number), number, bars, single, dash=number)


def _beside(positions: Sequence[float], number: int, count: int, has_log_x: bool) -> Callable[[float, float], float]:
    """Moves an arm to its side, by a share of the axis to which more can be added."""
    share = _SPREAD * (number / (count - 1) - 0.5) if count > 1 else 0.0
    if has_log_x:
        span = max(positions) / min(positions) if len(positions) > 1 else 10.0
        return lambda x, more: x * span ** (share + more)
    span = max(positions) - min(positions) or 1.0
    return lambda x, more: x + span * (share + more)


def _mark(label: str, number: int, outcome: Outcome | None = None) -> Line:
    points = [(outcome.seconds, outcome.summary.mean)] if outcome else []
    seeds = [(outcome.train_seconds[seed], score) for seed, score in outcome.scores.items()] if outcome else []
    return Line(label, points, series(number), number, single=seeds, is_joined=False)


def _limits(outcomes: Outcomes) -> tuple[float, float]:
    """Keeps axes within 0 and 100 where all scores are, as those in percent; a loss has no limits."""
    scores = [score for outcome in outcomes for score in outcome.scores.values()]
    is_percent = is_share(outcomes.plan.study.metric) and 0 <= min(scores) <= max(scores) <= 100
    return PERCENT if is_percent else UNLIMITED


def _described(title: str, outcomes: Outcomes, labels: Sequence[str]) -> str:
    """Describes a figure for who cannot see it; the tables of the report have its numbers."""
    return f"{title}: test {unit_of(outcomes.plan.study).name} of {', '.join(labels)}; the tables have the numbers"


def _steps(front: Sequence[Outcome]) -> list[tuple[float, float]]:
    """Computes the corners of the line that shows the best score up to each number of seconds."""
    points = [(outcome.seconds, outcome.summary.mean) for outcome in front]
    corners = [[(later, score), (later, better)] for (_, score), (later, better) in pairwise(points)]
    return [*points[:1], *chain.from_iterable(corners)]


def _labels(outcomes: Outcomes) -> list[str]:
    return list(dict.fromkeys(outcome.label for outcome in outcomes if outcome.scores))


def _drawn(outcomes: Outcomes) -> list[float | None]:
    """Lists the sizes of the curves. One that is null has no place among the numbers of another setting."""
    sizes = outcomes.sizes
    return sizes if outcomes.are_sizes_of_data else [size for size in sizes if size is not None] or sizes


def _position(outcomes: Outcomes, size: float | None) -> float:
    return (outcomes.are_sizes_of_data and outcomes.train_examples(size)) or size or 0


def _panel_title(outcomes: Outcomes, size: float | None) -> str:
    if outcomes.are_sizes_of_data:
        return f"{_position(outcomes, size):,.0f} labels"
    return f"{outcomes.plan.study.size_key} {size_name(size)}"
