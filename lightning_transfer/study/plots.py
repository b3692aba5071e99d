"""Draws the figures of a study's report as SVG."""

import math
from collections.abc import Sequence
from itertools import chain, pairwise

from lightning_transfer.report.charts import Chart, Line, draw_legend, legend_height
from lightning_transfer.report.drawing import SvgCanvas
from lightning_transfer.report.palette import series
from lightning_transfer.study.outcomes import Outcome, Outcomes
from lightning_transfer.study.units import unit_of

_WIDTH, _EDGE, _GAP = 720, 8, 16


def learning_curve(outcomes: Outcomes) -> str:
    """Draws the metric over the number of training examples: a line for each arm, with its 95 % interval as a band."""
    lines = [_curve(outcomes, label, number) for number, label in enumerate(_labels(outcomes))]
    positions = [_position(outcomes, size) for size in outcomes.sizes]
    chart = Chart(
        lines,
        x_label="training labels",
        y_label=f"test {unit_of(outcomes.plan.study).name}",
        x_ticks=positions,
        has_log_x=min(positions) > 0,
    )
    return _figure("learning curves", [chart], lines, columns=1, height=400)


def accuracy_over_seconds(outcomes: Outcomes) -> str:
    """Draws the metric over the seconds of training, a panel for each size, with the Pareto front as steps."""
    labels = _labels(outcomes)
    panels = []
    for size in outcomes.sizes:
        found = {outcome.label: outcome for outcome in outcomes.at(size)}
        front = Line("Pareto front", _steps([found[label] for label in outcomes.pareto_front(size)]), "muted")
        marks = [_mark(label, labels.index(label), [(o.seconds, o.summary.mean)]) for label, o in found.items()]
        panels.append(
            Chart(
                [front, *marks],
                f"{_position(outcomes, size):,.0f} labels",
                x_label="training seconds",
                y_label=f"test {unit_of(outcomes.plan.study).name}",
            )
        )
    # The legend has every arm, because an arm may have finished at some sizes only.
    keys = [_mark(label, number, []) for number, label in enumerate(labels)]
    return _figure("score over training time", panels, keys, columns=min(3, len(panels)), height=240)


def _figure(label: str, panels: Sequence[Chart], keys: Sequence[Line], columns: int, height: float) -> str:
    rows, width = math.ceil(len(panels) / columns), (_WIDTH - 2 * _EDGE + _GAP) / columns
    canvas = SvgCanvas(_WIDTH, rows * height + 2 * _EDGE + legend_height(keys, _WIDTH), label)
    for place, panel in enumerate(panels):
        left, top = _EDGE + place % columns * width, _EDGE + place // columns * height
        panel.draw(canvas, left, top, width - _GAP, height)
    draw_legend(canvas, keys, _EDGE, rows * height + _EDGE, _WIDTH - _EDGE)
    return canvas.svg()


def _curve(outcomes: Outcomes, label: str, number: int) -> Line:
    found = [outcome for outcome in outcomes if outcome.label == label and outcome.scores]
    points, lows, highs = [], [], []
    for outcome in found:
        x, summary = _position(outcomes, outcome.size), outcome.summary
        points.append((x, summary.mean))
        if summary.n > 1:
            lows.append((x, summary.low))
            highs.append((x, summary.high))
    return Line(label, points, series(number), number, band=[*lows, *reversed(highs)])


def _mark(label: str, number: int, points: Sequence[tuple[float, float]]) -> Line:
    return Line(label, points, series(number), number, is_joined=False)


def _steps(front: Sequence[Outcome]) -> list[tuple[float, float]]:
    """Computes the corners of the line that shows the best score up to each number of seconds."""
    points = [(outcome.seconds, outcome.summary.mean) for outcome in front]
    corners = [[(later, score), (later, better)] for (_, score), (later, better) in pairwise(points)]
    return [*points[:1], *chain.from_iterable(corners)]


def _labels(outcomes: Outcomes) -> list[str]:
    return list(dict.fromkeys(outcome.label for outcome in outcomes if outcome.scores))


def _position(outcomes: Outcomes, size: float | None) -> float:
    return outcomes.train_examples(size) or size or 0
