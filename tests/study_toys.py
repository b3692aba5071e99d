"""A study small enough for tests, and results that no run made."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from tqdm import tqdm

from lightning_transfer.study.cells import Cell
from lightning_transfer.study.config import Pretraining, Study, Tuning

STRATEGIES = {name: f"configs/strategies/{name}.yaml" for name in ("scratch", "full", "gradual")}


def write_base_config(**changes: Any) -> str:
    """Writes the base experiment of the toy study, one epoch on two images a class unless changed."""
    config = yaml.safe_load(Path("configs/quickstart_transfer.yaml").read_text())
    config["trainer"] |= {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "enable_model_summary": False, **changes}
    config["dashboards"] = None
    Path("base.yaml").write_text(yaml.safe_dump(config))
    return "base.yaml"


def toy_study(**changes: Any) -> Study:
    """A study of two strategies at two sizes with two seeds, from weights that it makes."""
    source = Pretraining(
        ["configs/quickstart.yaml", "configs/hardware/cpu.yaml"],
        {"trainer.max_epochs": 1, "data": {"examples_per_class": 10}, "dashboards": None},
    )
    settings: dict[str, Any] = {
        "name": "toy",
        "configs": [write_base_config()],
        "weights": {"source": source},
        "strategies": {name: STRATEGIES[name] for name in ("scratch", "full")},
        "sizes": [2, 4],
        "seeds": [0, 1],
        "tuning": Tuning([0.001, 0.01]),
        "threads": 1,
    }
    return Study(**{**settings, **changes})


class Noting(Cell):
    """A cell that trains nothing, whose seconds are the number of the process that ran it."""

    def run(self) -> float:
        return float(os.getpid())


class Drawing(Cell):
    """A cell that draws a bar, as data sets do; its seconds are the number of semaphores of the system it then has."""

    def run(self) -> float:
        for _ in tqdm(range(3)):
            pass
        return float(Path("/proc/self/maps").read_text().count("/sem."))


class Pause(L.Callback):
    """Lets no epoch be shorter than the environment says, however fast the machine is."""

    def on_train_epoch_end(self, *_: object) -> None:
        time.sleep(float(os.environ.get("PAUSE_SECONDS", 0)))


def pretend(cell: Cell, accuracy: float, **more: Any) -> None:
    """Leaves in a cell's folder what a finished run would have."""
    cell.begin()
    facts = {"train_examples": int(cell.size or 100) * 6, "validation_examples": 60, "fingerprints": {"train": "a"}}
    record = {
        "validation": {"val/accuracy": accuracy, "val/loss": 1 - accuracy},
        "test": None if cell.kind == "tuning" else {"test/accuracy": accuracy, "test/loss": 1 - accuracy},
        "fit_seconds": 2.0,
        "train_seconds": 1.0 + accuracy,
        "device": "cpu (x86_64)",
        "commit": "abc",
        "versions": {"torch": "2.15.0"},
        "data": facts,
        **more,
    }
    (cell.folder / "results.json").write_text(json.dumps(record))


def pretend_all(cells: list[Cell], accuracy: Callable[[Cell], float]) -> None:
    """Pretends that cells finished."""
    for cell in cells:
        pretend(cell, accuracy(cell))
