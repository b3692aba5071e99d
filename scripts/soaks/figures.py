"""The figures of a soak: how its memory grows, and how many files and threads are open at its beginning and end."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from lightning_transfer.report.charts import Chart, Line, draw_legend
from lightning_transfer.report.drawing import SvgCanvas
from lightning_transfer.report.palette import with_own_colors
from soaks.processes import Sample

WARM_UP = 0.25  # share of the time
PARTS = 18  # of the rest, whose means the slope is fitted to: neighbouring samples are alike
FLAT = 1.0  # MiB an hour
POINTS = 120  # of a line of the plot
WIDTH, HEIGHT, LEGEND = 300, 220, 28  # the size of a panel


def _memory(sample: Sample) -> float:
    return sum(process.memory for process in sample.processes)


def _own_memory(sample: Sample) -> float:
    return sample.processes[0].memory


def _files(sample: Sample) -> int:
    return sum(process.files for process in sample.processes)


def _threads(sample: Sample) -> int:
    return sum(process.threads for process in sample.processes)


MEMORY: dict[str, Callable[[Sample], float]] = {
    "memory of all processes": _memory,
    "memory of the command itself": _own_memory,
}
COUNTS: dict[str, Callable[[Sample], int]] = {
    "open files": _files,
    "threads": _threads,
    "processes": lambda sample: len(sample.processes),
}


@dataclass(frozen=True)
class Trend:
    """How memory goes on after the warm-up.

    Attributes:
        start: Its mean in MiB over the first of the parts.
        end: Its mean over the last.
        slope: Its growth in MiB in an hour.
        low: Lower end of the 95 % interval of the slope.
        high: Upper end.
    """

    start: float
    end: float
    slope: float
    low: float
    high: float

    def __str__(self) -> str:
        slope = f"{self.slope:+.2f} MiB an hour ({self.low:+.2f} to {self.high:+.2f})"
        return f"{self.start:.1f} to {self.end:.1f} MiB, {slope}"


@dataclass(frozen=True)
class Count:
    """How many there are over a time.

    Attributes:
        usual: The median.
    """

    usual: float
    fewest: int
    most: int

    def __str__(self) -> str:
        return f"{self.usual:g} ({self.fewest} to {self.most})"

    @classmethod
    def of(cls, values: Sequence[int]) -> "Count":
        """Counts what samples say."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Figures:
    """The figures of a soak.

    Attributes:
        hours: How long it went, with the warm-up.
        samples: How many were taken.
        memory: The trends of memory.
        counts: Open files, threads and processes in the first third of the time after the warm-up, and in the last.
        folder: MiB on the disk after the warm-up and at the end. It may grow: that is no leak.
    """

    hours: float
    samples: int
    memory: dict[str, Trend]
    counts: dict[str, tuple[Count, Count]]
    folder: tuple[float, float]

    def __str__(self) -> str:
        lines = [f"{self.hours:.2f} hours, {self.samples} samples"]
        lines += [f"{name}: {at}" for name, at in self.memory.items()]
        lines += [f"{name}: {start} after the warm-up, {end} at the end" for name, (start, end) in self.counts.items()]
        return "\n  ".join([*lines, "folder: {:.1f} to {:.1f} MiB".format(*self.folder)])

    def growing(self) -> list[str]:
        """Says what is not flat: memory that grows for certain, and counts that rise, the usual and the most."""
        counts = self.counts.items()
        return [
            *(f"{name} grows: {at}" for name, at in self.memory.items() if at.low > FLAT),
            *(f"{name} rise: {a} to {b}" for name, (a, b) in counts if b.usual > a.usual and b.most > a.most),
        ]


def figures_of(samples: Sequence[Sample]) -> Figures:
    """Computes the figures of a soak.

    Raises:
        ValueError: If there are too few samples.
    """
    held = [one for one in samples if one.seconds >= WARM_UP * samples[-1].seconds]
    if len(held) < PARTS:
        raise ValueError(f"{len(held)} samples after the warm-up: expected {PARTS} or more")
    third, seconds = len(held) // 3, [one.seconds for one in held]
    values = {name: [*map(of, held)] for name, of in COUNTS.items()}
    return Figures(
        hours=samples[-1].seconds / 3600,
        samples=len(samples),
        memory={name: trend(seconds, [*map(of, held)]) for name, of in MEMORY.items()},
        counts={name: (Count.of(all_[:third]), Count.of(all_[-third:])) for name, all_ in values.items()},
        folder=(held[0].folder, held[-1].folder),
    )


def trend(seconds: Sequence[float], mebibytes: Sequence[float]) -> Trend:
    """Fits a line to the means of equal parts of the time."""
    hours = [np.mean(part) / 3600 for part in np.array_split(seconds, PARTS)]
    means = [np.mean(part) for part in np.array_split(mebibytes, PARTS)]
    line = stats.linregress(hours, means)
    slope, margin = float(line.slope), float(stats.t.ppf(0.975, PARTS - 2) * line.stderr)
    return Trend(float(means[0]), float(means[-1]), slope, slope - margin, slope + margin)


def draw(soaks: dict[str, Sequence[Sample]], file: Path) -> None:
    """Draws memory and open files over the minutes of each soak.

    Args:
        soaks: The samples of each by its name.
        file: The file to write the plot to.
    """
    canvas = SvgCanvas(len(soaks) * WIDTH, 2 * HEIGHT + LEGEND, "memory and open files of each command over the time")
    rows: dict[str, list[Line]] = {}
    for column, (name, samples) in enumerate(soaks.items()):
        rows = _lines([[samples[place] for place in part] for part in np.array_split(range(len(samples)), POINTS)])
        for row, (label, lines) in enumerate(rows.items()):
            highest = max(y for line in lines for _, y in line.points)
            x_range, y_range = (0, samples[-1].seconds / 60), (0, 1.1 * highest)
            chart = Chart(lines, "" if row else name, "minutes", label, x_range=x_range, y_range=y_range)
            chart.draw(canvas, column * WIDTH + 8, row * HEIGHT + 8, WIDTH - 16, HEIGHT - 8)
    draw_legend(canvas, [line for lines in rows.values() for line in lines], 8, 2 * HEIGHT + 4, len(soaks) * WIDTH - 16)
    file.write_text(with_own_colors(canvas.svg()))


def _lines(parts: list[list[Sample]]) -> dict[str, list[Line]]:
    """Makes the lines of a soak, with a point for each part of its samples, by the quantity on their axis."""

    def over_time(value: Callable[[list[Sample]], float]) -> list[tuple[float, float]]:
        return [(statistics.fmean(one.seconds for one in part) / 60, value(part)) for part in parts if part]

    memory = over_time(lambda part: statistics.fmean(map(_memory, part)))
    command = over_time(lambda part: statistics.fmean(map(_own_memory, part)))
    most = over_time(lambda part: max(map(_files, part)))
    fewest = over_time(lambda part: min(map(_files, part)))
    return {
        "memory, MiB": [Line("all processes", memory, "accent"), Line("the command itself", command, "second")],
        "open files": [Line("most open files", most, "series-2"), Line("fewest", fewest, "series-3")],
    }
