"""Plots the results of the benchmark cnn.growth: python scripts/benchmarks/growth_plot.py RESULTS.json PLOT.svg"""

import json
import sys
from pathlib import Path

from lightning_transfer.report.charts import Chart, Line
from lightning_transfer.report.drawing import SvgCanvas
from lightning_transfer.report.palette import with_own_colors

STANDARD_BATCH, ALL_IMAGES = 128, 50_000
VALUES = {"images per CPU second": "images/s", "peak memory, MiB": "peak memory, MiB"}
WIDTH, HEIGHT = 380, 240  # the size of a panel


def draw(rows: list[dict[str, float]], file: Path) -> None:
    """Draws rate and memory over the number of images, and over the batch size.

    Args:
        rows: The rows of the benchmark.
        file: The file to write the plot to.
    """
    series = {
        "training images, in batches of 128": ("images", [row for row in rows if row["batch"] == STANDARD_BATCH]),
        "batch size, all images": ("batch", [row for row in rows if row["images"] == ALL_IMAGES]),
    }
    canvas = SvgCanvas(2 * WIDTH, 2 * HEIGHT, "rate and peak memory over images and batch size")
    for column, (title, (key, points)) in enumerate(series.items()):
        for place, (label, value) in enumerate(VALUES.items()):
            line = Line(label, sorted((point[key], point[value]) for point in points), "accent", mark=0)
            ticks = [x for x, _ in line.points]
            y_range = (0, 1.1 * max(row[value] for row in rows))
            chart = Chart([line], x_label=title, y_label=label, x_ticks=ticks, y_range=y_range, has_log_x=True)
            chart.draw(canvas, column * WIDTH + 8, place * HEIGHT + 8, WIDTH - 16, HEIGHT - 8)
    file.write_text(with_own_colors(canvas.svg()))


if __name__ == "__main__":
    results = json.loads(Path(sys.argv[1]).read_text())
    draw(results["parts"]["cnn.growth"]["rows"], Path(sys.argv[2]))
