"""Line charts as SVG, in the colours of the page around them."""

import html
import math
from collections.abc import Mapping, Sequence

from lightning_transfer.report.figures import ticks

COLORS = 8  # of the page's variables --series-0 and so on
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _RIGHT = 440, 240, 52, 12, 28, 12
_MOST_POINTS = 400

Points = Sequence[tuple[float, float]]


def line_chart(
    title: str,
    series: Mapping[str, Points],
    colors: Mapping[str, int] | None = None,
    keys: Mapping[str, int] | None = None,
) -> str:
    """Draws a figure with a line for each series over steps.

    Args:
        title: What is drawn.
        series: Points (step, value) of each line by its name; values that are no numbers are left out.
        colors: The number of each line's colour; by their order if not given.
        keys: What the legend says, and the number of its colour; the names of the lines if not given.

    Returns:
        A ``figure`` element; empty text where there is nothing to draw.
    """
    lines = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in series.items()}
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return ""
    colors = colors or {name: index for index, name in enumerate(lines)}
    xs, ys = ([point[axis] for points in lines.values() for point in points] for axis in (0, 1))
    low, high = min(ys), max(ys)
    if low > 0 and low < 0.6 * high:
        low = 0.0  # a curve above an axis that begins at 0 is harder to misread
    high += (high - low) * 0.04 or abs(high) or 1.0
    right = max(xs) or 1

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (_WIDTH - _LEFT - _RIGHT) * x / right
        return across, _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - (y - low) / (high - low))

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(title)}">']
    for value in ticks(low, high, 5):
        y = place(0, value)[1]
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--grid)"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y:.1f}" class="tick" text-anchor="end">{value:.6g}</text>')
    for step in ticks(0, right, 5):
        x = place(step, low)[0]
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 12}" class="tick" text-anchor="middle">{step:,.0f}</text>')
    for name, points in lines.items():
        stroke = f"var(--series-{colors[name] % COLORS})"
        drawn = [place(*point) for point in _thinned(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn)
        hint = f"<title>{html.escape(name)}: {points[-1][1]:.4g} at step {points[-1][0]:,.0f}</title>"
        parts.append(f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="1.8">{hint}</polyline>')
        parts.append(f'<circle cx="{drawn[-1][0]:.1f}" cy="{drawn[-1][1]:.1f}" r="2.5" fill="{stroke}">{hint}</circle>')
    parts.append("</svg>")
    keys = keys or {name: colors[name] for name in lines}
    return f"<figure><figcaption>{html.escape(title)}{legend(keys)}</figcaption>{''.join(parts)}</figure>"


def legend(keys: Mapping[str, int]) -> str:
    """Says what is of which colour; nothing where there is one only."""
    if len(keys) < 2:
        return ""
    entries = (f'<span class="key series-{color % COLORS}">{html.escape(name)}</span>' for name, color in keys.items())
    return f'<span class="legend">{" ".join(entries)}</span>'


def _thinned(points: Points) -> Points:
    stride = -(-len(points) // _MOST_POINTS)
    return points if stride == 1 else [*points[:-1:stride], points[-1]]
