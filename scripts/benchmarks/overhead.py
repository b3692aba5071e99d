"""Measures what the framework adds to a training step of a tiny model, and to the start of the command."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from benchmarks.cnn import CONFIGS
from benchmarks.measure import RATIO, SMALL_PARENT, Clock, Part, Row, Settings, silence, told_by_parent
from lightning_transfer.cli.entry import main

CLASSES = 2


def tiny_network() -> nn.Module:
    """Makes a perceptron of 354 parameters, with which nearly all of a step is overhead."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, CLASSES))


class Batch(NamedTuple):
    """A batch of labelled vectors."""

    vectors: Tensor
    labels: Tensor

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The arguments of the network."""
        return (self.vectors,)


class SameBatch:
    """Gives the same batch again and again, at no cost.

    Args:
        steps: Number of times.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.batch = Batch(torch.randn(32, 8), torch.randint(CLASSES, (32,)))

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        return iter([self.batch] * self.steps)


class SameData(L.LightningDataModule):
    """A data module of :class:`SameBatch`, for the command line."""

    num_classes = CLASSES

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def train_dataloader(self) -> SameBatch:
        """Returns the loader that repeats one batch."""
        return SameBatch(self.steps)


class StockModule(L.LightningModule):
    """The module that a user of Lightning writes, which logs loss and accuracy in the step."""

    def __init__(self) -> None:
        super().__init__()
        self.network = tiny_network()
        self.accuracy = MulticlassAccuracy(CLASSES)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Computes the loss, and logs it and the accuracy."""
        logits = self.network(batch.vectors)
        loss = F.cross_entropy(logits, batch.labels)
        self.accuracy(logits, batch.labels)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/accuracy", self.accuracy, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Makes the optimizer, which is the same for all candidates."""
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def raw_loop(steps: int) -> float:
    """Runs the same training without a framework, and gives its microseconds a step."""
    network = tiny_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    for step, batch in enumerate(SameBatch(steps)):
        if step == steps // 10:
            start = time.process_time()
        optimizer.zero_grad()
        F.cross_entropy(network(batch.vectors), batch.labels).backward()
        optimizer.step()
    return 1e6 * (time.process_time() - start) / (steps - steps // 10)


def stock(steps: int) -> float:
    """Runs Lightning's Trainer with its defaults, and logs loss and accuracy in every step."""
    with tempfile.TemporaryDirectory() as folder, silence():
        clock = Clock(steps // 10, steps)
        trainer = L.Trainer(max_epochs=1, accelerator="cpu", default_root_dir=folder, callbacks=[clock])
        trainer.fit(StockModule(), SameBatch(steps))
    return 1e6 * Clock.seconds / (steps - steps // 10)


def ours(steps: int) -> float:
    """Runs the command line with its defaults: Classifier, TensorBoard, checkpoints, dashboards, record, progress."""
    clock = {"class_path": "benchmarks.measure.Clock", "init_args": {"first": steps // 10, "last": steps}}
    with tempfile.TemporaryDirectory() as logs, silence():
        main(
            [
                *("fit", "--data", f"{__name__}.SameData", "--data.steps", str(steps)),
                *("--model.network", f"{__name__}.TinyNetwork", "--checkpoint.monitor", "train/loss"),
                *("--trainer.callbacks+", json.dumps(clock), "--trainer.max_epochs", "1"),
                *("--trainer.accelerator", "cpu", "--logs", logs),
            ]
        )
    return 1e6 * Clock.seconds / (steps - steps // 10)


class TinyNetwork(nn.Sequential):
    """The tiny network as a class, which the command line can name."""

    def __init__(self) -> None:
        super().__init__(*tiny_network())


def step(settings: Settings) -> list[Row]:
    """Measures microseconds of CPU time for a step of a tiny perceptron, beyond a loop without a framework."""
    steps = settings.scaled(3000, 20)
    candidates = {"loop by hand": raw_loop, "Lightning, stock": stock, "lightning-transfer": ours}
    times = [{name: run(steps) for name, run in candidates.items()} for _ in range(settings.repeats)]
    rows: list[Row] = []
    for name in candidates:
        more = sorted(turn[name] - turn["loop by hand"] for turn in times)
        lowest = min(turn[name] for turn in times)
        beyond = {"more, best": more[0], "median": more[len(more) // 2]}
        ratio = statistics.median(turn[name] / turn["loop by hand"] for turn in times)
        rows.append({"candidate": name, "µs a step, best": lowest, **beyond, RATIO: ratio})
    return rows


def start(settings: Settings) -> list[Row]:
    """Measures seconds of CPU time of the help and of a `fit` of one step, beside the import of torch and Lightning."""
    with tempfile.TemporaryDirectory() as logs:
        fit = [
            "fit",
            *(word for name in ("quickstart", "hardware/cpu") for word in ("--config", f"{CONFIGS}/{name}.yaml")),
        ]
        commands = {
            "import torch, lightning": ["-c", "import torch, lightning"],
            "lightning-transfer --help": ["-m", "lightning_transfer", "--help"],
            "lightning-transfer fit": ["-m", "lightning_transfer", *fit, "--trainer.max_steps", "1", "--logs", logs],
        }
        for arguments in commands.values():
            _cpu_seconds_of(arguments)  # fills the caches
        times = [
            {name: _cpu_seconds_of(arguments) for name, arguments in commands.items()} for _ in range(settings.repeats)
        ]
    first = next(iter(commands))
    rows: list[Row] = []
    for name in commands:
        ratios = sorted(turn[name] / turn[first] for turn in times)
        rows.append({"command": name, "s, best": min(turn[name] for turn in times), RATIO: ratios[len(ratios) // 2]})
    return rows


def _cpu_seconds_of(arguments: list[str]) -> float:
    command = [*SMALL_PARENT, sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return told_by_parent(done.stdout)[0]


PARTS: dict[str, Part] = {"step": step, "start": start}
