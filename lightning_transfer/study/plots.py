"""The figures of a report, as SVG."""

import io
import math
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lightning_transfer.study.outcomes import Outcomes
from lightning_transfer.study.units import unit_of

# Told apart by the colour-blind too. Source: Okabe & Ito, 2008.
_COLORS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666")
_MARKERS = "osD^vPX*"


def learning_curve(outcomes: Outcomes) -> str:
    """Draws the metric over the number of training examples: a line for each arm, its 95 % interval as a band."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, label in enumerate(_labels(outcomes)):
        found = [outcome for outcome in outcomes if outcome.label == label and outcome.scores]
        positions = [_position(outcomes, outcome.size) for outcome in found]
        axes.plot(positions, [outcome.summary.mean for outcome in found], label=label, **_style(number))
        low = [_finite(outcome.summary.low, outcome.summary.mean) for outcome in found]
        high = [_finite(outcome.summary.high, outcome.summary.mean) for outcome in found]
        axes.fill_between(positions, low, high, color=_color(number), alpha=0.15, linewidth=0)
    if all(_position(outcomes, size) > 0 for size in outcomes.sizes):
        axes.set_xscale("log")
    axes.set_xticks([_position(outcomes, size) for size in outcomes.sizes])
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.set_xlabel("training labels")
    axes.set_ylabel(f"test {unit_of(outcomes.plan.study).name}")
    axes.legend(frameon=False, fontsize="small")
    return _svg(figure, axes)


def accuracy_over_seconds(outcomes: Outcomes) -> str:
    """Draws the metric over the seconds of training, a panel for each size, with the Pareto front as steps."""
    sizes = outcomes.sizes
    columns = min(3, len(sizes))
    rows = math.ceil(len(sizes) / columns)
    figure = Figure(figsize=(1 + 2.6 * columns, 0.6 + 2.4 * rows), layout="constrained")
    panels: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).flat)
    labels = _labels(outcomes)
    handles: dict[str, Line2D] = {}  # from every panel: an arm may have finished at some sizes only
    for axes, size in zip(panels, sizes, strict=False):
        found = outcomes.at(size)
        front = [outcome for label in outcomes.pareto_front(size) for outcome in found if outcome.label == label]
        axes.step([o.seconds for o in front], [o.summary.mean for o in front], where="post", color="#999999")
        for outcome in found:
            style = _style(labels.index(outcome.label)) | {"linestyle": "none"}
            [handles[outcome.label]] = axes.plot(outcome.seconds, outcome.summary.mean, **style)
        axes.set_title(f"{_position(outcomes, size):,.0f} labels", fontsize="small")
        axes.set_xlabel("training seconds", fontsize="small")
        axes.set_ylabel(f"test {unit_of(outcomes.plan.study).name}", fontsize="small")
    for axes in panels[len(sizes) :]:
        axes.remove()
    figure.legend([handles[label] for label in labels], labels, loc="outside lower center", ncols=3, frameon=False,
                  fontsize="small")  # fmt: skip
    return _svg(figure, *panels[: len(sizes)])


def _labels(outcomes: Outcomes) -> list[str]:
    return list(dict.fromkeys(outcome.label for outcome in outcomes if outcome.scores))


def _position(outcomes: Outcomes, size: float | None) -> float:
    return outcomes.train_examples(size) or size or 0


def _finite(end: float, mean: float) -> float:
    return end if math.isfinite(end) else mean


def _color(number: int) -> str:
    return _COLORS[number % len(_COLORS)]


def _style(number: int) -> dict[str, Any]:
    marker = _MARKERS[number // len(_COLORS) % len(_MARKERS)] if number >= len(_COLORS) else _MARKERS[number]
    return {"color": _color(number), "marker": marker, "markersize": 5, "linewidth": 1.5}


def _svg(figure: Figure, *panels: Axes) -> str:
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3, linewidth=0.5)
    text = io.StringIO()
    # The same figures give the same file; text stays text.
    with matplotlib.rc_context({"svg.hashsalt": "study", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
