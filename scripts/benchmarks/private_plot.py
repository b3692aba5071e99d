"""Plots accuracy over epsilon, of the published studies of private training: private_plot.py PLOT.svg"""

import csv
import sys
from pathlib import Path

from lightning_transfer.report.charts import PERCENT, Chart, Line, draw_legend, legend_height
from lightning_transfer.report.drawing import SvgCanvas
from lightning_transfer.report.palette import series, with_own_colors

STUDIES = Path(__file__).resolve().parents[2] / "docs" / "studies"
# By the title of a panel: a study, and the name of its only row, or None for the rows' own.
PANELS = {
    "CIFAR-10, a small network from CIFAR-100": {"private_cifar10_cnn": None},
    "IMDB": {
        "private_imdb_sentiment": "head on MiniLM after SST-2",
        "private_imdb_probe": "head on MiniLM",
        "private_imdb_lstm": "head on our language model",
    },
}
WIDTH, HEIGHT = 380, 260  # the size of a panel


def draw(file: Path) -> None:
    """Draws a panel for each data set: means over epsilon, with 95 % intervals as bars.

    Args:
        file: The file to write the plot to.
    """
    panels = {title: lines_of(studies) for title, studies in PANELS.items()}
    keys = max((legend_height(lines, WIDTH - 16) for lines in panels.values()), default=0)
    canvas = SvgCanvas(
        len(panels) * WIDTH, HEIGHT + keys + 8, "test accuracy over epsilon; the studies have the numbers"
    )
    for place, (title, lines) in enumerate(panels.items()):
        left = place * WIDTH + 8
        chart = Chart(
            lines,
            title=title,
            x_label="epsilon",
            y_label="test accuracy, %",
            x_ticks=[x for x, _ in lines[0].points],
            y_limits=PERCENT,
            has_log_x=True,
        )
        chart.draw(canvas, left, 8, WIDTH - 16, HEIGHT - 8)
        draw_legend(canvas, lines, left, HEIGHT, WIDTH - 16)
    file.write_text(with_own_colors(canvas.svg()))


def lines_of(studies: dict[str, str | None]) -> list[Line]:
    """Reads the rows of studies from their published tables."""
    rows: dict[str, list[dict[str, str]]] = {}
    for study, name in studies.items():
        for row in csv.DictReader((STUDIES / f"{study}_summary.csv").open()):
            rows.setdefault(name or row["arm"], []).append(row)
    return [
        Line(
            name,
            [(float(row["size"]), float(row["mean"])) for row in found],
            series(number),
            number,
            [(float(row["size"]), float(row["low"]), float(row["high"])) for row in found],
            dash=number,
        )
        for number, (name, found) in enumerate(rows.items())
    ]


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
