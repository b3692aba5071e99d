"""Draws the curves of runs for a page: a chart of lines over training steps, its legend and its numbers as a table."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from markupsafe import Markup

from lightning_transfer.report.charts import PERCENT, UNLIMITED, Chart, Line, Points, around, draw_legend
from lightning_transfer.report.drawing import SvgCanvas
from lightning_transfer.report.page import joined, table
from lightning_transfer.report.palette import series

_MOST_POINTS = 400
_WIDTH, _HEIGHT = 400, 250
_STAR = 6  # number of the shape that marks the best epoch


@dataclass(frozen=True)
class Curves:
    """The curves of one quantity.

    Args:
        title: Caption of the chart.
        lines: Points (step, value) of each line by its name; values that are not finite are left out.
        unit: Name of the quantity with its unit, at the y axis.
        is_share: Whether the values are shares from 0 to 1, which are drawn in percent.
        numbers: Number of each line's colour; if not given, the lines are numbered in their order.
        keys: Entries of the legend, with the number of their colour; if not given, the names of the lines.
        best: Step of the best validation by line, which a star marks.
        x_label: Name of the quantity at the x axis.
    """

    title: str
    lines: Mapping[str, Points]
    unit: str = ""
    is_share: bool = False
    numbers: Mapping[str, int] | None = None
    keys: Mapping[str, int] | None = None
    best: Mapping[str, float | None] = field(default_factory=dict)
    x_label: str = "training step"

    def html(self) -> Markup:
        """Returns a ``figure`` element, or an empty text where there is nothing to draw."""
        found = {name: self._points(points) for name, points in self.lines.items()}
        found = {name: points for name, points in found.items() if points}
        if not found:
            return Markup("")
        numbers = self.numbers or {name: index for index, name in enumerate(found)}
        stars = {name: star for name, points in found.items() if (star := self._star(name, points))}
        drawn: list[Line] = []
        for name, points in found.items():
            color, number = series(numbers[name]), numbers[name]
            drawn += [Line(name, _thinned(points), color, dash=number), Line(name, points[-1:], color, number)]
        drawn += [Line(f"{name}, best", [star], series(numbers[name]), _STAR) for name, star in stars.items()]
        canvas = SvgCanvas(_WIDTH, _HEIGHT, f"{self.title}: {', '.join(found)}")
        self._chart(drawn).draw(canvas, 0, 0, _WIDTH, _HEIGHT)
        legend = _legend(self.keys or {name: numbers[name] for name in found}, bool(stars))
        numbers_table = _table(found, stars, self.unit or self.title, self.x_label)
        element = Markup("<figure><figcaption>{}{}</figcaption>{}{}</figure>")
        return element.format(self.title, legend, canvas.svg(), numbers_table)

    def _points(self, points: Points) -> Points:
        factor = 100 if self.is_share else 1
        return [(x, factor * y) for x, y in points if math.isfinite(y)]

    def _star(self, name: str, points: Points) -> tuple[float, float] | None:
        return next((point for point in points if point[0] == self.best.get(name)), None)

    def _chart(self, lines: list[Line]) -> Chart:
        xs, ys = ([point[axis] for line in lines for point in line.points] for axis in (0, 1))
        low, high = around(ys)
        if 0 <= min(ys) < 0.6 * high:
            low = 0.0  # a curve above an axis that begins at 0 is harder to misread
        return Chart(
            lines,
            x_label=self.x_label,
            y_label=self.unit,
            x_range=(0, max(xs) or 1),
            y_range=(low, high),
            y_limits=PERCENT if self.is_share else UNLIMITED,
        )


def _legend(keys: Mapping[str, int], has_stars: bool) -> Markup:
    """Writes the names beside pieces of their lines, and what a star is; empty where there is nothing to tell apart."""
    entries = [(name, Line("", [], series(number), number, dash=number)) for name, number in keys.items()]
    entries = entries if len(entries) > 1 else []
    if has_stars:
        entries.append(("best epoch", Line("", [], "ink", _STAR, is_joined=False)))
    if not entries:
        return Markup("")
    words = (Markup('<span class="key">{}{}</span>').format(_sample(line), name) for name, line in entries)
    return Markup('<span class="legend">{}</span>').format(joined(words, Markup(" ")))


def _sample(line: Line) -> Markup:
    """Draws a piece of a line, as the legend of a study does; screen readers skip it."""
    canvas = SvgCanvas(24, 12, "")
    draw_legend(canvas, [line], 2, -4, 24)
    return canvas.svg().replace("<svg ", Markup('<svg aria-hidden="true" '), 1)


def _table(lines: Mapping[str, Points], stars: Mapping[str, tuple[float, float]], unit: str, x_label: str) -> Markup:
    """Writes the numbers of a chart, for who cannot see it."""
    columns = ("first", *(("best epoch",) if stars else ()), "lowest", "highest", "last")
    rows = []
    for name, points in lines.items():
        by_value = sorted(points, key=lambda point: point[1])
        found = {"first": points[0], "lowest": by_value[0], "highest": by_value[-1], "last": points[-1]}
        found |= {"best epoch": stars[name]} if name in stars else {}
        cells = joined(Markup("<td>{}</td>").format(_number(found.get(column))) for column in columns)
        rows.append(Markup('<tr><th scope="row">{}</th>{}</tr>').format(name, cells))
    element = Markup(
        '<details class="numbers"><summary>numbers</summary><p>The {} stands in brackets.</p>'
        '<div class="scroll">{}</div></details>'
    )
    return element.format(x_label, table((unit, *columns), rows))


def _number(point: tuple[float, float] | None) -> Markup:
    if point is None:
        return Markup("")
    return Markup('{:.4g} <span class="muted">({:,.0f})</span>').format(point[1], point[0])


def _thinned(points: Points) -> Points:
    stride = -(-len(points) // _MOST_POINTS)
    return points if stride == 1 else [*points[:-1:stride], points[-1]]
