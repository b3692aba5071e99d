"""Plots the results of the suite growth: python scripts/benchmarks/growth_plot.py RESULTS.json PLOT.svg"""

import json
import sys
from pathlib import Path
from typing import Any

# Python puts only a script's own folder on the path. This adds the one that the benchmarks are in.
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.growth import AXES, MEMORY, SECONDS, exponent, fitted
from lightning_transfer.report.charts import Chart, Line
from lightning_transfer.report.drawing import SvgCanvas
from lightning_transfer.report.palette import with_own_colors

WIDTH, HEIGHT = 380, 220  # the size of a panel


def draw(parts: dict[str, Any], file: Path) -> None:
    """Draws CPU seconds and peak memory over each quantity, with the fitted curve and its exponent.

    Args:
        parts: The parts of a results file.
        file: The file to write the plot to.
    """
    axes = [axis for axis in AXES if f"growth.{axis}" in parts]
    canvas = SvgCanvas(2 * WIDTH, len(axes) * HEIGHT, "CPU seconds and peak memory of commands, over their sizes")
    for row, axis in enumerate(axes):
        name = AXES[axis].name
        for column, value in enumerate((SECONDS, MEMORY)):
            points = [(float(found[name]), float(found[value])) for found in parts[f"growth.{axis}"]["rows"]]
            chart = Chart(
                [curve(points), Line(value, points, "accent", mark=0, is_joined=False)],
                title=f"exponent {exponent(points):.2f}",
                x_label=name,
                y_label=value,
                x_ticks=[x for x, _ in points],
                y_range=(0, 1.1 * max(y for _, y in points)),
                has_log_x=True,
            )
            chart.draw(canvas, column * WIDTH + 8, row * HEIGHT + 8, WIDTH - 16, HEIGHT - 8)
    file.write_text(with_own_colors(canvas.svg()))


def curve(points: list[tuple[float, float]]) -> Line:
    """Returns the fitted curve."""
    fixed, factor, power = fitted(points)
    sizes = np.geomspace(points[0][0], points[-1][0], 50).tolist()
    return Line("fitted", [(x, fixed + factor * x**power) for x in sizes], "muted", dash=1)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text())["parts"], Path(sys.argv[2]))
