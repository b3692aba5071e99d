"""A run is the same with any logger: its folder, record and checkpoints, and what it goes on from."""

import json
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
import pytest
from conftest import UNBOUNDED, fit_arguments
from lightning.pytorch.loggers.logger import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_transfer.cli.entry import main

CSV = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "csv"]
TWO = ["--trainer.logger", "test_loggers.Pictures", "--trainer.logger+", "CSVLogger", "--trainer.logger.save_dir=csv"]


class Pictures(Logger):
    """A logger that takes pictures and texts, and has neither a folder nor a number."""

    got: ClassVar[dict[str, Any]] = {}
    name = version = save_dir = None

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.got.update(metrics)

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        self.got[key] = images[0]

    def log_text(self, key: str, columns: list[str], data: list[list[str]], step: int | None = None) -> None:
        self.got[key] = data[0][0]


class Looking(L.Callback):
    """Notes the folder that other callbacks write to."""

    folders: ClassVar[list[str | None]] = []

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.folders.append(trainer.log_dir)


@pytest.mark.parametrize("logger", [CSV, TWO, ["--trainer.logger", "false"], ["--trainer.logger", "true"]])
def test_run_goes_on_in_its_folder_with_any_logger(
    logger: list[str], image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ["--trainer.callbacks", "ModelCheckpoint", "--trainer.callbacks.filename=other"]
    more = [*logger, *other, "--trainer.callbacks+", "test_loggers.Looking"]
    more += ["--dashboards.embeddings", "0"] if logger in (CSV, TWO) else ["--dashboards", "null"]
    command = fit_arguments(image_folder, "--version", "a", *more, "--ckpt_path", "last", "--test_after_fit", "true")
    Looking.folders.clear()
    for epochs in ("1", "2"):
        main([*command, "--trainer.max_epochs", epochs])
    run = Path("logs/default/a")
    assert Looking.folders == [str(run)] * 2
    record = json.loads((run / "results.json").read_text())
    assert [entry["step"] for entry in record["validations"]] == [9, 18]
    assert Path(record["best_checkpoint"]) == run / "checkpoints/best.ckpt"
    assert {file.name for file in run.glob("checkpoints/*")} >= {"best.ckpt", "last.ckpt", "other.ckpt"}
    assert (run / "config.yaml").exists()
    assert not Path("checkpoints").exists()
    assert not Path("lightning_logs").exists()
    has_events = bool(list(run.glob("events.*")))
    assert has_events == (logger[1] == "true")
    assert ("tensorboard --logdir" in capsys.readouterr().out) == has_events
    if logger in (CSV, TWO):
        assert "phase/trainable_share" in next(Path("csv").rglob("metrics.csv")).read_text()


def test_loggers_add_to_tensorboard_and_get_what_dashboards_show(image_folder: Path) -> None:
    Pictures.got.clear()
    own = ("--loggers+", "test_loggers.Pictures", "--trainer.log_every_n_steps", "2")
    main(fit_arguments(image_folder, *UNBOUNDED, *own))
    run = Path("logs/default/version_0")
    tags = EventAccumulator(str(run)).Reload().Tags()
    pictures = {tag for tag, value in Pictures.got.items() if isinstance(value, np.ndarray)}
    assert pictures == set(tags["images"]) >= {"training/examples", "phase/timeline", "validation/confusion_matrix"}
    assert Pictures.got["training/examples"].dtype == np.uint8
    assert f"--config {run}/config.yaml" in Pictures.got["run/card"]
    assert Pictures.got.keys() >= {"train/loss", "val/accuracy", "lr/head", "speed/step_seconds"}
    assert json.loads((run / "results.json").read_text())["validation"]
