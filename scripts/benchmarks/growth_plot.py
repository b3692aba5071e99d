"""Draws what the benchmark cnn.growth measured: python scripts/benchmarks/growth_plot.py RESULTS.json PLOT.svg"""

import json
import sys
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

STANDARD_BATCH, ALL_IMAGES = 128, 50_000
RATE, MEMORY = "images/s", "peak memory, MiB"


def draw(rows: list[dict[str, float]], file: Path) -> None:
    """Draws rate and memory over the number of images, and over the batch size.

    Args:
        rows: Those of the benchmark.
        file: Where to write the plot.
    """
    series = {
        "training images, in batches of 128": ("images", [row for row in rows if row["batch"] == STANDARD_BATCH]),
        "batch size, all images": ("batch", [row for row in rows if row["images"] == ALL_IMAGES]),
    }
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    for column, (title, (key, points)) in enumerate(series.items()):
        points = sorted(points, key=lambda row: row[key])
        places = [point[key] for point in points]
        for row, value in enumerate((RATE, MEMORY)):
            panel = axes[row, column]
            panel.plot(places, [point[value] for point in points], marker="o", color="#1f6feb")
            panel.set_xscale("log")
            panel.grid(alpha=0.3)
            panel.spines[["top", "right"]].set_visible(False)
        panel.set_xlabel(title)
        panel.set_xticks(places, [f"{place:,.0f}" for place in places])
        panel.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    for left, value in zip(axes[:, 0], (RATE, MEMORY), strict=True):
        left.set_ylim(0, 1.1 * max(row[value] for row in rows))
    axes[0, 0].set_ylabel("images per CPU second")
    axes[1, 0].set_ylabel(MEMORY)
    with matplotlib.rc_context({"svg.hashsalt": "growth", "svg.fonttype": "none"}):
        figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    results = json.loads(Path(sys.argv[1]).read_text())
    draw(results["parts"]["cnn.growth"]["rows"], Path(sys.argv[2]))
