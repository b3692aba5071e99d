"""Loads finished runs into a Python program, to predict with them."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_transfer.cli.arguments import ExperimentParser
from lightning_transfer.cli.experiment import CommandLine
from lightning_transfer.cli.mistakes import message_of
from lightning_transfer.cli.trainer import Trainer
from lightning_transfer.cluster.signals import StopSignals
from lightning_transfer.data.classification import ClassificationDataModule
from lightning_transfer.errors import UserError, in_one_line
from lightning_transfer.run.config_files import read_yaml
from lightning_transfer.run.predictor import Member, Predictor, refuse_repeated
from lightning_transfer.run.verbosity import hushed
from lightning_transfer.transfer.sources import checkpoint_of

_Place = str | os.PathLike[str]


def load(run: _Place | Sequence[_Place], device: str | None = None) -> Predictor:
    """Loads a finished run, or several that predict together, from their folders alone.

    The weights are those of the best checkpoint, or of the last where nothing was held out to find the best. Neither
    the data set nor a network is needed. The checkpoint is read as data. Classes come from the run's ``config.yaml``,
    as in every command, so one's own have to be importable.

    Args:
        run: The folder of a run, such as logs/quickstart/version_0, or several such folders.
        device: Where to compute, such as cpu, cuda or cuda:1. If not given, the CPU if the run's
            ``trainer.accelerator`` is that, and otherwise a GPU if there is one.

    Returns:
        What predicts: ``load(run).predict(["cat.png"]).labels``.

    Raises:
        UserError: If a folder holds no run, or one whose data module takes no examples from a program; and if a run is
            given twice.
    """
    runs = [run] if isinstance(run, str | os.PathLike) else [*run]
    if not runs:
        raise UserError("no run is given: expected a folder, as logs/quickstart/version_0")
    folders = [*map(Path, runs)]
    refuse_repeated(folders, "an ensemble")
    return Predictor([_member(folder, device) for folder in folders])


def files_of(run: Path) -> tuple[Path, Path]:
    """Finds the config and the checkpoint of a run.

    Raises:
        UserError: If either is not there.
    """
    found = run / "config.yaml", checkpoint_of(run)
    for file in found:
        if not file.is_file():
            raise UserError(f"{run} has no {file.name}: expected the folder of a run, as logs/quickstart/version_0")
    return found


def _member(run: Path, device: str | None) -> Member:
    config, checkpoint = files_of(run)
    try:
        # Lightning would say what devices there are, and warn that there is nothing to predict yet.
        with hushed("lightning.pytorch", logging.WARNING), isolate_rng():
            restored = _Restored(_content(config), checkpoint, device)
    except Exception as error:
        if (line := message_of(error)) is None or isinstance(error, UserError):
            raise
        raise UserError(line) from error
    # A text that is longer than the network reads is cut, where no other can be asked for.
    if (most := getattr(restored.model.network, "most_tokens", None)) and hasattr(restored.datamodule, "max_tokens"):
        restored.datamodule.max_tokens = min(restored.datamodule.max_tokens, most)
    return Member(str(run), restored.model, restored.datamodule, restored.trainer.precision_plugin, restored.place)


def _content(config: Path) -> dict[str, Any]:
    content = read_yaml(config)
    if not isinstance(content, dict) or not isinstance(content.get("trainer") or {}, dict):
        raise UserError(f"{config} is no config of a run: expected a mapping with its model, data and trainer")
    return content


class _RaisingParser(ExperimentParser):
    """Raises the line that the command line would print."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UserError(self.line_of(message, ex)) from ex


class _Restored(CommandLine):
    """Builds the module and the data module of a run as ``predict`` does, with the weights of the checkpoint.

    Attributes:
        place: The device that the module is on.
    """

    experiment_parser = _RaisingParser
    datamodule: ClassificationDataModule[Any]

    def __init__(self, config: dict[str, Any], checkpoint: Path, device: str | None) -> None:
        trainer: dict[str, Any] = config.get("trainer") or {}
        self._accelerator, self._precision = trainer.get("accelerator"), trainer.get("precision")
        self._device = device
        kept: dict[str, Any] = {name: config[name] for name in ("model", "data") if name in config}
        # What only a training needs is not even imported.
        predict: dict[str, Any] = {**kept, "ckpt_path": str(checkpoint)}
        super().__init__({"subcommand": "predict", "predict": predict}, StopSignals())

    def _set_seed(self) -> None:
        """Leaves the generators of the program alone."""

    def _check_output(self) -> None:
        """Writes nothing."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds a trainer that keeps nothing, for the device and the precision."""
        name, _, index = (self._device or ("cpu" if self._accelerator == "cpu" else "auto")).partition(":")
        is_on_cpu = name == "cpu" or (name == "auto" and not torch.cuda.is_available())
        precision: Any = "32-true" if is_on_cpu and self._precision == "16-true" else self._precision
        try:
            return Trainer(
                accelerator=name,
                devices=[int(index)] if index else 1,
                precision=precision,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                plugins=[LightningEnvironment()],  # a program of several processes loads a run in each
            )
        # Lightning's, and torch's for a missing device
        except (ImportError, MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"device is {self._device}: expected cpu, or what this machine has, such as cuda:0"
                f" ({in_one_line(error)})"
            ) from error

    def predict(self, **kwargs: Any) -> None:
        """Has Lightning restore the module as for a prediction, and moves it to its device."""
        if not isinstance(self.datamodule, ClassificationDataModule):
            name = type(self.datamodule).__name__
            if hasattr(self.datamodule, "predict_task"):
                raise UserError(f"{name} has several tasks: use lightning-transfer predict with --data.predict_task")
            raise UserError(
                f"{name} takes no examples from a program: derive it from ImageDataModule or TextDataModule"
            )
        self.trainer.predict(self.model, dataloaders=[], ckpt_path=kwargs["ckpt_path"])
        self.place = self.trainer.strategy.root_device
        self.model.to(self.place).eval()
        self.model.trainer = None
