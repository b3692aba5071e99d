"""Makes the record of a run: ``results.json`` beside its checkpoints, and a short table on the terminal."""

import platform
import shlex
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch

from lightning_transfer.run.best_checkpoint import BestCheckpoint, best_checkpoint
from lightning_transfer.run.training_steps import check_is_finite, training_steps
from lightning_transfer.run.verbosity import print_result, verbosity
from lightning_transfer.transfer.interpolation import interpolation_of
from lightning_transfer.transfer.shown_groups import unfreezing_of

_PACKAGES = ("lightning-transfer", "torch", "lightning", "torchvision", "torchmetrics", "datasets")


class ResultsRecorder(L.Callback):
    """Records the metrics and times of a run, and stops it once what it validates is not a number.

    The record goes on over a resume.
    """

    def __init__(self) -> None:
        self.validations: list[dict[str, float]] = []
        self.fit_seconds = 0.0
        self.validation_seconds = 0.0
        self._fit_start = self._validation_start = 0.0
        self._is_fit = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Notes the stage: a fit goes on from a saved record, but a test of its best checkpoint must not."""
        self._is_fit = stage == "fit"

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self._fit_start = time.perf_counter()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock of validation."""
        self._validation_start = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keeps the validation metrics.

        Raises:
            UserError: If the loss or a monitored metric is infinite or not a number.
        """
        if trainer.state.fn != "fit":
            return
        self.validation_seconds += time.perf_counter() - self._validation_start
        if trainer.sanity_checking:
            return
        monitored = [c.monitor for c in trainer.checkpoint_callbacks if isinstance(c, BestCheckpoint) and c.monitor]
        logged = trainer.callback_metrics.items()
        metrics = {name: value.item() for name, value in logged if name.startswith("val/") or name in monitored}
        self.validations.append({"epoch": trainer.current_epoch, "step": trainer.global_step, **metrics})
        for name in ("val/loss", *monitored):
            check_is_finite(name, metrics, trainer.global_step)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops the clock."""
        self.fit_seconds += time.perf_counter() - self._fit_start

    def state_dict(self) -> dict[str, Any]:
        """Returns what the record has so far."""
        return {
            "validations": self.validations,
            "fit_seconds": self.fit_seconds + time.perf_counter() - self._fit_start,
            "validation_seconds": self.validation_seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a saved record, in a fit."""
        if self._is_fit:
            vars(self).update(state_dict)

    def record(self, trainer: L.Trainer, test: Mapping[str, float] | None) -> dict[str, Any]:
        """Puts the record together.

        Args:
            trainer: The trainer, after ``fit``.
            test: The metrics of the best checkpoint on the test split, if it was tested.

        Returns:
            The record by names, as ``results.json`` holds it.
        """
        train_seconds = self.fit_seconds - self.validation_seconds
        best, steps = best_checkpoint(trainer), training_steps(trainer)
        return {
            "validation": self._validation_after(best.best_step if best else trainer.global_step, best),
            "test": test,
            "selected_by": best.monitor if best else None,
            "best_checkpoint": best.best_model_path if best else None,
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "skipped_steps": steps.skipped,
            "fit_seconds": round(self.fit_seconds, 3),
            "train_seconds": round(train_seconds, 3),
            "train_examples_per_second": round(steps.examples / train_seconds, 1),
            "parameters": sum(parameter.numel() for parameter in trainer.lightning_module.parameters()),
            "privacy": getattr(trainer.lightning_module, "privacy", None),
            "shared_features": getattr(trainer.lightning_module, "shared_features", None),
            "data": getattr(getattr(trainer, "datamodule", None), "facts", None),
            "device": _device(trainer),
            "processes": trainer.world_size,
            "precision": str(trainer.precision),
            "channels_last": getattr(trainer.lightning_module, "is_channels_last", None),
            "commit": source_commit(),
            "versions": versions(),
            "unfreezing": getattr(unfreezing_of(trainer), "outcome", None) or None,
            "interpolation": interpolation_of(trainer),
            "validations": self.validations,
        }

    def _validation_after(self, step: int | None, best: BestCheckpoint | None) -> dict[str, float] | None:
        """Returns the metrics of the weights after that many steps; None where they were not validated.

        Weights that are interpolated at the end of a training take no step. So where several were validated after as
        many, those of the best checkpoint count, or the last.
        """
        entries = [entry for entry in reversed(self.validations) if entry["step"] == step] or [{}]
        found = next((entry for entry in entries if best is not None and _is_of(entry, best)), entries[0])
        return {name: value for name, value in found.items() if name not in ("epoch", "step")} or None


def _is_of(entry: Mapping[str, Any], best: BestCheckpoint) -> bool:
    """Says whether the metrics of a validation are those by which the best checkpoint was chosen."""
    score, loss = best.best_model_score, best.best_loss
    has_score = score is not None and entry.get(str(best.monitor)) == float(score)
    return has_score and (loss is None or entry.get("val/loss") == loss)


def print_record(record: dict[str, Any], folder: Path) -> None:
    """Prints the end of a run: its table, or its record as a line of JSON."""
    print_result(table(record, folder), {"event": "record", "folder": str(folder), **record})


def print_metrics(trainer: L.Trainer, command: str) -> None:
    """Prints the metrics of an evaluation where Lightning's table of them is not printed."""
    if verbosity() in ("quiet", "json") and trainer.is_global_zero:
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        lines = [f"{name:<28}{value:>12.4f}" for name, value in metrics.items()]
        print_result("\n".join(lines), {"event": command, **metrics})


def table(record: dict[str, Any], folder: Path) -> str:
    """Writes the end of a run for the terminal: metrics by split, epochs and times, and the command to look at it."""
    splits = [split for split in ("validation", "test") if record[split]]
    values = {
        split: {name.partition("/")[2] or name: value for name, value in record[split].items()} for split in splits
    }
    names = dict.fromkeys(name for found in values.values() for name in found)
    width = max([20, *(len(name) + 2 for name in names)])
    lines = ["".join([f"{'':<{width}}", *(f"{split:>12}" for split in splits)])] if splits else []
    lines += ["".join([f"{name:<{width}}", *(_number(values[split].get(name)) for split in splits)]) for name in names]
    took = (
        f"{record['epochs']} epoch{'s' if record['epochs'] != 1 else ''} in {record['fit_seconds']:.1f} s"
        f" ({record['train_examples_per_second']:,.0f} training examples/s), {record['parameters']:,} parameters,"
        f" {record['device']}"
    )
    lines.append(took)
    if record.get("skipped_steps"):
        lines.append(f"{record['skipped_steps']} of {record['steps']} steps skipped: their gradients were not finite")
    if privacy := record.get("privacy"):
        lines.append(
            f"epsilon {privacy['epsilon']:.2f} at delta {privacy['delta']:g} after {privacy['steps']} private steps;"
            f" not in it: {'; '.join(privacy['not_in_epsilon'])}"
        )
    lines.append(f"results: {folder}/results.json")
    if any(folder.glob("events.out.tfevents.*")):
        lines.append(shlex.join(["tensorboard", "--logdir", str(folder.parents[1])]))
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return f"{'' if value is None else format(value, '.4f'):>12}"


def _device(trainer: L.Trainer) -> str:
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that a result depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def source_commit() -> str | None:
    """Returns the commit of the source that ran, marked where files were changed; None outside a checkout."""
    package = Path(__file__).parent
    git = ["git", "-C", str(package)]
    try:
        # A package may be installed inside a repository without being part of it.
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=True)
        command = [*git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
