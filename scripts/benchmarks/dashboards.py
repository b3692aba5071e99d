"""What the dashboards cost a run of the classic network on CIFAR-10."""

import statistics
import tempfile
import time

from benchmarks.measure import Part, Row, Settings, silence
from lightning_transfer.cli import main

CANDIDATES: dict[str, tuple[str, ...]] = {
    "without dashboards": ("--dashboards", "null"),
    "all of them": (),
    "scalars only": (
        *("--dashboards.timeline", "false", "--dashboards.training_examples", "false"),
        *("--dashboards.predictions", "false", "--dashboards.attributions", "false", "--dashboards.embeddings", "0"),
        *("--dashboards.run_card", "false", "--dashboards.graph", "false"),
    ),
}


def fit(epochs: int, *arguments: str) -> float:
    """Trains the classic network and gives the CPU seconds of the whole command."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as logs, silence():
        main(
            [
                *("fit", "--config", "configs/cifar10_cnn.yaml", "--config", "configs/hardware/cpu.yaml"),
                *("--trainer.max_epochs", str(epochs), "--test_after_fit", "false", "--logs", logs),
                *arguments,
            ]
        )
    return time.process_time() - start


def epoch(settings: Settings) -> list[Row]:
    """CPU seconds of a run of several epochs, batches of 128, from its first line to its last."""
    epochs = settings.scaled(5, 1)
    seconds: dict[str, list[float]] = {name: [] for name in CANDIDATES}
    fit(1)  # imports and caches
    for _ in range(settings.repeats):
        for name, arguments in CANDIDATES.items():
            seconds[name].append(fit(epochs, *arguments))
    first = seconds["without dashboards"]
    return [
        {
            "candidate": name,
            f"CPU seconds of {epochs} epochs": statistics.median(values),
            "more than without, %": 100
            * (statistics.median(own / other for own, other in zip(values, first, strict=True)) - 1),
        }
        for name, values in seconds.items()
    ]


PARTS: dict[str, Part] = {"epoch": epoch}
