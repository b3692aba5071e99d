"""Compares a linear probe on ResNet-18 that caches features with one that does not.

It needs CIFAR-10, from a mirror or the Hub; with --quick it takes the embedded images.
"""

import json
import tempfile
from pathlib import Path

from benchmarks.cnn import CONFIGS
from benchmarks.measure import Clock, Part, Row, Settings, silence
from lightning_transfer import CIFAR10, DemoImages, ImageDataModule
from lightning_transfer.cli.entry import main

BATCH_SIZE = 64


def probe(
    images: type[ImageDataModule], fractions: dict[str, float], epochs: int, cache: bool
) -> tuple[float, float, float]:
    """Runs the probe, and gives the CPU seconds of an epoch after the second, hold-out accuracy and loss."""
    data = images(batch_size=BATCH_SIZE, **fractions)
    data.setup("fit")
    steps = max(1, len(data._train_rows) // BATCH_SIZE)
    # The clock starts at the end of the second epoch, because the first validation still has features to compute.
    clock = {"class_path": "benchmarks.measure.Clock", "init_args": {"first": 2 * steps, "last": epochs * steps}}
    with tempfile.TemporaryDirectory() as logs, silence():
        main(
            [
                *("fit", "--config", str(CONFIGS / "quickstart.yaml"), "--test_after_fit", "false", "--logs", logs),
                *("--config", str(CONFIGS / "strategies" / "linear_probe.yaml")),
                *("--data", images.__name__, "--data.batch_size", str(BATCH_SIZE)),
                *(part for name, value in fractions.items() for part in (f"--data.{name}", str(value))),
                *("--model.network", "TorchvisionNetwork", "--model.network.name", "resnet18"),
                *("--model.network.small_images", "true", "--model.cache_features", str(cache).lower()),
                *("--trainer.max_epochs", str(epochs), "--trainer.accelerator", "cpu", "--dashboards", "null"),
                *(
                    "--trainer.log_every_n_steps",
                    "1" if steps < 50 else "50",
                    "--trainer.callbacks+",
                    json.dumps(clock),
                ),
            ]
        )
        found = json.loads(next(Path(logs).rglob("results.json")).read_text())["validation"]
    return Clock.seconds / (epochs - 2), found["val/accuracy"], found["val/loss"]


def epoch(settings: Settings) -> list[Row]:
    """Measures a late epoch, with a validation, of a linear probe on a tenth of CIFAR-10, without dashboards."""
    images: type[ImageDataModule] = DemoImages if settings.quick else CIFAR10
    fractions = {"train_fraction": 0.02, "validation_fraction": 0.02} if settings.quick else {"train_fraction": 0.1}
    epochs = settings.scaled(4, 3)
    rows: list[Row] = []
    candidates = {"every epoch through the network": False, "cached features": True}
    turns = [
        {name: probe(images, fractions, epochs, cache) for name, cache in candidates.items()}
        for _ in range(min(2, settings.repeats))
    ]
    for name in candidates:
        seconds, accuracy, loss = min(turn[name] for turn in turns)
        first = rows[0]["CPU s an epoch"] if rows else seconds
        rate = float(first) / seconds
        rows.append(
            {"probe": name, "CPU s an epoch": seconds, "rate": rate, "hold-out accuracy": accuracy, "loss": loss}
        )
    return rows


PARTS: dict[str, Part] = {"epoch": epoch}
