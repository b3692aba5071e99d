"""Measures how CPU time and memory of whole commands grow: over data, classes, layer groups and the seeds of a study.

Networks are small and trainings short, so that all else a command does shows: reading, records, figures, reports.
"""

import csv
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.cnn import CONFIGS
from benchmarks.measure import SMALL_PARENT, Part, Row, Settings, described, silence, told_by_parent
from lightning_transfer import run_study
from lightning_transfer.cli.entry import main
from lightning_transfer.study.config import Pretraining, Study

SECONDS, MEMORY = "CPU s", "peak memory, MiB"
LEAST_GROWTH = 1.1  # below this ratio of the largest to the smallest size, there is no growth to fit


class LayerStack(nn.Sequential):
    """A perceptron for images of 32 x 32, whose linear layers are a layer group each.

    Args:
        num_classes: Number of classes.
        groups: Number of layer groups, two or more.
    """

    def __init__(self, num_classes: int, groups: int) -> None:
        stem = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 32), nn.ReLU())
        middle = [nn.Sequential(nn.Linear(32, 32), nn.ReLU()) for _ in range(groups - 2)]
        super().__init__(stem, *middle, nn.Linear(32, num_classes))
        self.layer_groups = [str(number) for number in range(groups)]


def fit(folder: Path, config: str, *arguments: str) -> None:
    """Trains for an epoch and tests, with all that a run leaves."""
    main(
        [
            *("fit", "--config", str(CONFIGS / config), "--trainer.accelerator", "cpu", "--logs", str(folder / "logs")),
            *("--trainer.max_epochs", "1", "--test_after_fit", "true", *arguments),
        ]
    )


def fit_images(folder: Path, count: int, classes: int, *arguments: str) -> None:
    """Trains on generated images."""
    images = ("--data", "benchmarks.cnn.GeneratedImages", "--data.count", str(count), "--data.classes", str(classes))
    fit(folder, "cifar10_cnn.yaml", *images, *arguments)


def fit_texts(folder: Path, count: int) -> None:
    """Trains a small LSTM on a table of reviews of 20 words, as frequent as in a language."""
    generator = np.random.default_rng(0)
    reviews = folder / "reviews"
    reviews.mkdir()
    for split, rows in (("train", count), ("test", count // 10 + 2)):
        with (reviews / f"{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["text", "label"])
            for row, words in enumerate(generator.zipf(1.3, (rows, 20)) % 50_000):
                table.writerow([" ".join(f"w{word}" for word in words), ("bad", "good")[row % 2]])
    table_settings = ("--data.text_column", "text", "--data.label_column", "label", "--data.batch_size", "64")
    fit(folder, "quickstart_text.yaml", "--data", "TextDataModule", "--data.path", str(reviews), *table_settings)


def fit_groups(folder: Path, groups: int) -> None:
    """Trains a perceptron of that many layer groups, which thaw one after another."""
    thawing = {"schedule": "gradual", "until": {"fraction": 1 / groups}}
    callback = {"class_path": "lightning_transfer.ProgressiveUnfreezing", "init_args": thawing}
    network = ("--model.network", f"{__name__}.LayerStack", "--model.network.groups", str(groups))
    channels = ("--model.channels_last", "false", "--data.batch_size", "16")
    fit_images(folder, 1600, 10, *network, *channels, "--trainer.callbacks+", json.dumps(callback))


def study(folder: Path, seeds: int) -> None:
    """Compares two strategies with that many seeds, in this process, from weights of an epoch."""
    overrides = {"trainer.max_epochs": 1, "dashboards": None, "data": {"examples_per_class": 10}}
    source = Pretraining([str(CONFIGS / "quickstart.yaml"), str(CONFIGS / "hardware" / "cpu.yaml")], overrides)
    settings = Study(
        name="growth",
        configs=[str(CONFIGS / "quickstart_transfer.yaml"), str(CONFIGS / "hardware" / "cpu.yaml")],
        weights={"source": source},
        strategies={name: str(CONFIGS / "strategies" / f"{name}.yaml") for name in ("scratch", "full")},
        sizes=[2],
        seeds=[*range(seeds)],
        overrides={"trainer.max_epochs": 1, "dashboards": None},
        threads=1,
    )
    run_study(settings, logs=folder / "logs", workers=0)


@dataclass(frozen=True)
class Axis:
    """A quantity over which the cost of a command grows.

    Args:
        name: Name of the quantity.
        sizes: Its values, ascending.
        work: A function that runs the command in a folder, at a size.
    """

    name: str
    sizes: Sequence[int]
    work: Callable[[Path, int], None]


AXES = {
    "images": Axis("training images", (150, 500, 5_000, 50_000), lambda folder, size: fit_images(folder, size, 10)),
    "texts": Axis("training texts", (25, 250, 2_500, 25_000), fit_texts),
    "classes": Axis("classes", (3, 10, 100, 1_000), lambda folder, size: fit_images(folder, 8_000, size)),
    "groups": Axis("layer groups", (2, 8, 16, 32), fit_groups),
    "seeds": Axis("seeds of a study", (1, 3, 10, 30), study),
}


def measure(axis: str, settings: Settings) -> list[Row]:
    """Runs each size in a process of its own, because the peak of a process's memory never falls."""
    sizes = AXES[axis].sizes[:1] if settings.quick else AXES[axis].sizes
    found: list[dict[str, float]] = []
    for size in sizes:
        code = f"import sys; sys.path[:0] = {sys.path[:2]!r}; from benchmarks import growth; "
        command = [*SMALL_PARENT, sys.executable, "-W", "ignore", "-c", f"{code}growth.print_seconds({axis!r}, {size})"]
        turns = []
        for _ in range(settings.repeats):
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            *_, seconds, told = done.stdout.splitlines()
            turns.append({SECONDS: float(seconds), MEMORY: round(told_by_parent(told)[1])})
        found.append({key: min(turn[key] for turn in turns) for key in (SECONDS, MEMORY)})
    rows: list[Row] = [{AXES[axis].name: size, **cost} for size, cost in zip(sizes, found, strict=True)]
    for key in (SECONDS, MEMORY):
        power = exponent([(size, cost[key]) for size, cost in zip(sizes, found, strict=True)])
        for row in rows:
            row[f"exponent of {key.partition(',')[0]}"] = power if row is rows[-1] else ""
    return rows


def print_seconds(axis: str, size: int) -> None:
    """Prints the CPU seconds of a command. One of the smallest size, not counted, comes before."""
    torch.set_num_threads(1)
    with silence():
        for measured in (AXES[axis].sizes[0], size):
            with tempfile.TemporaryDirectory() as folder:
                start = time.process_time()
                AXES[axis].work(Path(folder), measured)
                seconds = time.process_time() - start
    print(seconds)


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """Fits the p of cost = a + b size^p, with a fixed cost a; 0 where the cost does not grow by a tenth."""
    if points[-1][1] < LEAST_GROWTH * points[0][1]:
        return 0.0
    return fitted(points)[2]


def fitted(points: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Fits a, b >= 0 and p from 0.05 to 3 of cost = a + b size^p, by the least squares of relative errors."""
    sizes, costs = np.array(points, dtype=float).T
    best = (np.inf, (0.0, 0.0, 0.0))
    for power in np.arange(5, 301) / 100:
        terms = np.stack([1 / costs, sizes**power / costs], axis=1)
        for kept in ([0, 1], [1]):  # where a would be negative, it is 0
            coefficients = np.zeros(2)
            coefficients[kept] = np.linalg.lstsq(terms[:, kept], np.ones(len(costs)), rcond=None)[0]
            error = float(((terms @ coefficients - 1) ** 2).sum())
            if (coefficients >= 0).all() and error < best[0]:
                best = (error, (float(coefficients[0]), float(coefficients[1]), float(power)))
    return best[1]


PARTS: dict[str, Part] = {
    name: described(
        functools.partial(measure, name),
        f"Measures a whole command over the number of {axis.name}, and fits the exponents.",
    )
    for name, axis in AXES.items()
}
