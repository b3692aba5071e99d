"""Measures accuracy and seconds of the record recipes on CIFAR-10 and CIFAR-100, by the ordinary command line."""

import json
import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks.cnn import CONFIGS
from benchmarks.measure import Part, Row, Settings, silence
from lightning_transfer.cli.entry import main
from lightning_transfer.study.statistics import summarise


def train(recipe: str, seed: int, settings: Settings) -> tuple[float, float]:
    """Runs a recipe once, and gives its test accuracy and the seconds of its fit by the clock."""
    quick = [
        *("--data", "DemoImages", "--data.batch_size", "100", "--data.train_fraction", "0.2"),
        *("--model.network.widths", "[4, 8, 8]", "--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1"),
        *("--trainer.log_every_n_steps", "1"),
    ]
    with tempfile.TemporaryDirectory() as logs, silence():
        main(
            [
                *("fit", "--config", str(CONFIGS / f"{recipe}.yaml")),
                *("--config", str(CONFIGS / "hardware" / f"{_hardware()}.yaml")),
                *("--seed_everything", str(seed), "--logs", logs),
                *(*(quick if settings.quick else ()), *settings.arguments),
            ]
        )
        result = json.loads(next(Path(logs).rglob("results.json")).read_text())
    return result["test"]["test/accuracy"], result["fit_seconds"]


def _hardware() -> str:
    return "gpu" if torch.cuda.is_available() else "cpu"


def runs_of(recipe: str) -> Part:
    """Makes the part that measures a recipe."""

    def runs(settings: Settings) -> list[Row]:
        if _hardware() == "gpu":
            train(recipe, settings.repeats, settings)  # not counted, as it chooses kernels and may compile
        accuracies, seconds = zip(*(train(recipe, seed, settings) for seed in range(settings.repeats)), strict=True)
        interval = summarise(accuracies)
        row: Row = {
            "recipe": recipe,
            "runs": settings.repeats,
            "test accuracy, mean": interval.mean,
            **({"half of its 95 % interval": interval.high - interval.mean} if interval.n > 1 else {}),
            "s by the clock, median": statistics.median(seconds),
        }
        return [row]

    runs.__doc__ = f"Runs configs/{recipe}.yaml once for each seed, in minutes on a GPU or hours on a CPU."
    return runs


PARTS: dict[str, Part] = {recipe: runs_of(recipe) for recipe in ("cifar10_94", "cifar10_96", "cifar100_75")}
