"""Compares trainings above frozen layers that keep their features with ones that do not.

The images are those of CIFAR-10, and the questions those of TREC, read by MiniLM, each from a mirror or the Hub. With
--quick they are embedded data, read by small networks.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cnn import CONFIGS
from benchmarks.measure import RATIO, Clock, Part, Row, Settings, silence
from lightning_transfer import CIFAR10, DemoImages, DemoTexts, ImageDataModule, TextDataModule
from lightning_transfer.cli.entry import main
from lightning_transfer.data.classification import ClassificationDataModule

BATCH_SIZE = 64
TINY = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 6, "num_attention_heads": 2}


def fit(
    data: ClassificationDataModule, arguments: Sequence[str], phase: Sequence[int], epochs: int, cache: bool
) -> tuple[float, float, float]:
    """Trains these layer groups, and gives the CPU seconds of an epoch after the second, hold-out accuracy and loss."""
    data.setup("fit")
    steps = len(data.train_dataloader())
    # The clock starts at the end of the second epoch, because the first validation still has features to compute.
    clock = {"class_path": "benchmarks.measure.Clock", "init_args": {"first": 2 * steps, "last": epochs * steps}}
    frozen = {"phases": [{"groups": [*phase]}], "rest": "frozen"}
    phases = {"class_path": "lightning_transfer.ProgressiveUnfreezing", "init_args": frozen}
    with tempfile.TemporaryDirectory() as logs, silence():
        main(
            [
                *("fit", *arguments, "--test_after_fit", "false", "--logs", logs),
                *("--data.batch_size", str(BATCH_SIZE), "--model.cache_features", str(cache).lower()),
                *("--trainer.max_epochs", str(epochs), "--trainer.accelerator", "cpu", "--dashboards", "null"),
                *("--trainer.log_every_n_steps", "1" if steps < 50 else "50"),
                *("--trainer.callbacks+", json.dumps(phases), "--trainer.callbacks+", json.dumps(clock)),
            ]
        )
        found = json.loads(next(Path(logs).rglob("results.json")).read_text())["validation"]
    return Clock.seconds / (epochs - 2), found["val/accuracy"], found["val/loss"]


def compared(
    settings: Settings, data: ClassificationDataModule, arguments: Sequence[str], phases: dict[str, Sequence[int]]
) -> list[Row]:
    """Runs each phase with kept features and without, in turns."""
    epochs = settings.scaled(4, 3)
    rows: list[Row] = []
    for trained, phase in phases.items():
        candidates = {"computed each time": False, "kept": True}
        turns = [
            {name: fit(data, arguments, phase, epochs, cache) for name, cache in candidates.items()}
            for _ in range(min(2, settings.repeats))
        ]
        best = {name: min(turn[name] for turn in turns) for name in candidates}
        for name, (seconds, accuracy, loss) in best.items():
            times = {"CPU s an epoch": seconds, RATIO: seconds / best["computed each time"][0]}
            rows.append({"trained": trained, "features": name, **times, "hold-out accuracy": accuracy, "loss": loss})
    return rows


def epoch(settings: Settings) -> list[Row]:
    """Measures a late epoch, with a validation, of a linear probe on a tenth of CIFAR-10, without dashboards."""
    images: type[ImageDataModule] = DemoImages if settings.quick else CIFAR10
    resnet = ("TorchvisionNetwork", "--model.network.name", "resnet18", "--model.network.small_images", "true")
    fractions = {"train_fraction": 0.02, "validation_fraction": 0.02} if settings.quick else {"train_fraction": 0.1}
    arguments = [
        *("--config", str(CONFIGS / "quickstart.yaml"), "--data", images.__name__),
        *(part for name, value in fractions.items() for part in (f"--data.{name}", str(value))),
        *("--model.network", *(("SeedCNN",) if settings.quick else resnet)),
    ]
    return compared(settings, images(batch_size=BATCH_SIZE, **fractions), arguments, {"head": [-1]})


def sentences(settings: Settings) -> list[Row]:
    """Measures a late epoch of MiniLM on half of TREC, with a validation: its head alone, or its last layer too."""
    data: ClassificationDataModule
    if settings.quick:
        data = DemoTexts("target", batch_size=BATCH_SIZE)
        network = ("--model.network", "TransformersNetwork", "--model.network.model_arguments", json.dumps(TINY))
        arguments = ["--data", "DemoTexts", "--data.task", "target", "--model", "Classifier", *network]
    else:
        config = CONFIGS / "trec_minilm.yaml"
        data = TextDataModule("CogComp/trec", label_column="coarse_label", train_fraction=0.5, batch_size=BATCH_SIZE)
        arguments = ["--config", str(config), "--data.train_fraction", "0.5"]
    phases = {"head": [-1], "layer.5 and head": [-1, -2]}
    return compared(settings, data, [*arguments, "--model.network.dropout", "0"], phases)


PARTS: dict[str, Part] = {"epoch": epoch, "sentences": sentences}
