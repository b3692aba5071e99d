"""Draws charts of lines and marks over two axes, and their legends."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from lightning_transfer.report.drawing import Anchor, Canvas, shortened, text_width
from lightning_transfer.report.figures import ticks
from lightning_transfer.report.palette import SERIES, Color

_SMALL = 11  # size of the numbers and names at an axis
_ROW = 20  # height of a row of a legend
# Shapes that readers can tell apart without colours: corners, radius between two of them, degrees of turn, size.
_SHAPES = (
    *((8, 1.0, 0, 3.6), (4, 0.71, 45, 4.6), (4, 0.71, 0, 4.8), (3, 0.5, 0, 5.0)),
    *((3, 0.5, 180, 5.0), (4, 0.4, 0, 5.5), (5, 0.45, 0, 5.5), (4, 0.4, 45, 5.5)),
)
# Where lines coincide, the one below shows between the dashes of the one above.
_DASHES: tuple[tuple[float, ...], ...] = ((), (7, 4), (2, 3), (10, 3, 2, 3))

PERCENT, UNLIMITED = (0.0, 100.0), (-math.inf, math.inf)  # limits of an axis

Points = Sequence[tuple[float, float]]
Place = Callable[[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Args:
        name: Name of the series.
        points: x and y of each point, in the order in which the line joins them.
        color: Colour of the line.
        mark: Number of the shape that marks each point; None for no marks.
        bars: x, lower end and upper end of each interval, which a vertical bar shows; empty for none.
        single: Single values behind the line, such as one of each seed, as small marks.
        is_joined: Whether a line joins the points; otherwise only their marks are drawn.
        dash: Number of the pattern of the line; the first is whole.
    """

    name: str
    points: Points
    color: Color
    mark: int | None = None
    bars: Sequence[tuple[float, float, float]] = ()
    single: Points = ()
    is_joined: bool = True
    dash: int = 0

    @property
    def dashes(self) -> Sequence[float]:
        """Lengths of the dashes and of the gaps between them; empty for a whole line."""
        return _DASHES[self.dash % len(_DASHES)]

    @property
    def extent(self) -> Points:
        """All that the axes have to reach: points, single values and the ends of bars."""
        ends = [(x, end) for x, low, high in self.bars for end in (low, high)]
        return [*self.points, *self.single, *ends]

    def draw_behind(self, canvas: Canvas, place: Place) -> None:
        """Draws the bars and the single values."""
        for x, low, high in self.bars:
            ends = [place(x, low), place(x, high)]
            canvas.line(ends, self.color, 1.2, f"{self.name}: {low:.4g} to {high:.4g} at {x:,.6g}")
            for across, y in ends:
                canvas.line([(across - 3, y), (across + 3, y)], self.color, 1.2)
        for x, y in self.single:
            canvas.polygon(_shape(0, *place(x, y), 0.65), self.color, 0.6, f"{self.name}: {y:.4g} at {x:,.6g}")

    def draw(self, canvas: Canvas, place: Place) -> None:
        """Draws the line at the places that the axes give its points."""
        hints = [f"{self.name}: {y:.4g} at {x:,.6g}" for x, y in self.points]
        drawn = [place(*point) for point in self.points]
        if self.is_joined and drawn[1:]:
            canvas.line(drawn, self.color, 1.8, hints[-1], self.dashes)
        if self.mark is not None:
            for (x, y), hint in zip(drawn, hints, strict=True):
                canvas.polygon(_shape(self.mark, x, y), self.color, title=hint)


@dataclass(frozen=True)
class Chart:
    """A chart of lines over two axes.

    Args:
        lines: At least one line, with at least one point.
        title: Text above the chart, at the left.
        x_label: Name of the quantity on the x axis.
        y_label: Name of the quantity on the y axis.
        x_ticks: The numbers written at the x axis; round numbers if None.
        x_range: Start and end of the x axis; around all points if None.
        y_range: Start and end of the y axis; around all points if None.
        y_limits: Values that the y axis and the bars do not exceed, such as 0 and 100 of a share in percent.
        has_log_x: Whether the x axis is logarithmic; x must then be above 0.
    """

    lines: Sequence[Line]
    title: str = ""
    x_label: str = ""
    y_label: str = ""
    x_ticks: Iterable[float] | None = None
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    y_limits: tuple[float, float] = UNLIMITED
    has_log_x: bool = False

    def draw(self, canvas: Canvas, left: float, top: float, width: float, height: float) -> None:
        """Draws the chart onto a part of a canvas."""
        scale = math.log10 if self.has_log_x else float
        points = [point for line in self.lines for point in line.extent]
        low, high = self.y_range or around([y for _, y in points])
        low, high = max(low, self.y_limits[0]), min(high, self.y_limits[1])
        start, end = (scale(x) for x in self.x_range) if self.x_range else self._x_range([scale(x) for x, _ in points])
        names = {value: f"{value:,.9g}" for value in ticks(low, high, 5)}
        x0, x1 = left + 10 + max(map(_width, names.values()), default=0), left + width - 12
        y0, y1 = top + (26 if self.title or self.y_label else 12), top + height - (44 if self.x_label else 28)

        def place(x: float, y: float) -> tuple[float, float]:
            across = (scale(x) - start) / (end - start)
            return x0 + (x1 - x0) * across, y0 + (y1 - y0) * (high - y) / (high - low)

        for value, name in names.items():
            y = place(points[0][0], value)[1]
            canvas.line([(x0, y), (x1, y)], "grid")
            canvas.text(x0 - 6, y, name, "muted", _SMALL, "end")
        self._name_x_axis(canvas, start, end, lambda x: place(x, low))
        if self.title:
            canvas.text(left, top + 8, self.title)
        if self.y_label:
            anchor: Anchor = "end" if self.title else "start"
            canvas.text(x1 if self.title else left, top + 8, self.y_label, "muted", _SMALL, anchor)
        if self.x_label:
            canvas.text((x0 + x1) / 2, y1 + 32, self.x_label, "muted", _SMALL, "middle")
        for line in self.lines:
            line.draw_behind(canvas, lambda x, y: place(x, min(max(y, low), high)))
        for line in self.lines:
            line.draw(canvas, place)

    def _x_range(self, values: Sequence[float]) -> tuple[float, float]:
        if not self.has_log_x:
            return around(values)
        margin = 0.04 * (max(values) - min(values)) or 0.5
        return min(values) - margin, max(values) + margin

    def _name_x_axis(
        self, canvas: Canvas, start: float, end: float, place: Callable[[float], tuple[float, float]]
    ) -> None:
        """Writes the numbers below the axis, except those that would touch another."""
        if self.x_ticks is not None:
            values = self.x_ticks
        elif self.has_log_x:
            values = [10.0**power for power in range(math.ceil(start), math.floor(end) + 1)]
        else:
            values = ticks(start, end, 5)
        free = -math.inf
        for value in values:
            name = f"{value:,.9g}"
            (x, y), half = place(value), _width(name) / 2
            if x - half >= free:
                canvas.line([(x, y), (x, y + 4)], "muted")
                canvas.text(x, y + 15, name, "muted", _SMALL, "middle")
                free = x + half + 6


def legend_height(lines: Sequence[Line], width: float) -> float:
    """Computes the height in units of a legend of that width."""
    return _ROW * -(-len(lines) // _columns(lines, width))


def draw_legend(canvas: Canvas, lines: Sequence[Line], left: float, top: float, width: float) -> None:
    """Draws rows of names, each beside a piece of its line or its mark."""
    columns = _columns(lines, width)
    for number, line in enumerate(lines):
        x, y = left + number % columns * (width / columns), top + number // columns * _ROW + _ROW / 2
        if line.is_joined:
            canvas.line([(x, y), (x + 20, y)], line.color, 1.8, dashes=line.dashes)
        if line.mark is not None:
            canvas.polygon(_shape(line.mark, x + 10, y), line.color)
        canvas.text(x + 26, y, shortened(line.name, width / columns - 32), size=12)


def around(values: Sequence[float]) -> tuple[float, float]:
    """Chooses start and end of an axis, with a margin around the values."""
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.5 * abs(high) or 1.0
    return low - margin, high + margin


def _width(name: str) -> float:
    return 1.2 * text_width(name, _SMALL)  # the reader's font may be wider than the font measured here


def _columns(lines: Sequence[Line], width: float) -> int:
    return max(1, min(len(lines), int(width // max(text_width(line.name) + 44 for line in lines))))


def _shape(number: int, x: float, y: float, scale: float = 1) -> list[tuple[float, float]]:
    # There are as many shapes as colours: where the colours begin again, each meets another shape.
    corners, inner, turn, size = _SHAPES[(number + number // len(SERIES)) % len(_SHAPES)]
    angles = [math.radians(turn - 90 + 180 * step / corners) for step in range(2 * corners)]
    radii = [scale * size, scale * size * inner] * corners
    return [(x + r * math.cos(angle), y + r * math.sin(angle)) for r, angle in zip(radii, angles, strict=True)]
