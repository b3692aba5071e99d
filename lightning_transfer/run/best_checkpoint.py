"""Keeps the best checkpoint of a run."""

import os
import re
import shutil
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_transfer.directions import Direction, decide_direction
from lightning_transfer.errors import UserError
from lightning_transfer.files import replacing
from lightning_transfer.lightning_internals import rest_hook, wake_hook
from lightning_transfer.transfer.damage import damage_of


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``: the weights with the best value of one metric.

    It differs from Lightning's ``ModelCheckpoint`` in five points. Where validations log the metric, each of them
    counts, whatever the intervals, and nothing else does. So the value always belongs to the weights in the file. A run
    that goes on in another folder still knows what was best before, so a worse validation does not become the best. A
    run whose module does not log the metric ends only when its last checkpoint is saved, and can go on from there.
    Where the options ask for more files than this one, Lightning's callback keeps the others beside it.
    Of equal values, the one with the lower loss of the same stage is better, such as ``val/loss`` of ``val/accuracy``.

    Args:
        monitor: The metric. With null nothing is called best, and the last weights are the result.
        mode: Whether a lower (min) or a higher (max) value is better. It follows from most names, such as accuracy and
            loss. For other names it must be given.
        save_top_k: 1; 0 to keep no best checkpoint; another number of the best, or -1 for all, to keep them beside it.
        filename: Name of the files beside best.ckpt, such as {epoch}.
        dirpath: Always null, which means the run's own folder.
        save_last: It changes nothing, because last.ckpt is kept in any case.
        save_on_exception: Whether a file beside best.ckpt is saved where the training fails.
        enable_version_counter: Whether a file beside best.ckpt gets a number where one of its name exists.

    Raises:
        UserError: If another folder or the name of the last checkpoint is given, or the direction has to be given.
    """

    def __init__(
        self,
        monitor: str | None = "val/accuracy",
        mode: Direction | None = None,
        save_top_k: int = 1,
        filename: str | None = "best",
        dirpath: str | None = None,
        save_last: bool | Literal["link"] | None = None,
        save_on_exception: bool = False,
        enable_version_counter: bool = False,
        **options: Any,
    ) -> None:
        if dirpath is not None:
            raise UserError(
                f"checkpoint.dirpath is {dirpath}: the checkpoints of a run lie in its folder, which --logs,"
                " --experiment and --version choose"
            )
        if filename == "last":
            raise UserError("checkpoint.filename is last: last.ckpt is the last checkpoint, expected another name")
        keeps = bool(monitor and save_top_k)
        direction = decide_direction(str(monitor), mode, "checkpoint.mode") if keeps else "min"
        super().__init__(
            monitor=monitor,
            mode=direction,
            save_top_k=int(keeps),
            filename="best",
            enable_version_counter=False,
            **options,
        )
        self.beside: list[ModelCheckpoint] = []  # these callbacks keep the other files
        if filename not in ("best", None) or save_top_k not in (0, 1) or save_on_exception:
            other = ModelCheckpoint(
                monitor=monitor,
                mode=direction,
                save_top_k=save_top_k,
                filename=None if filename == "best" else filename,
                save_on_exception=save_on_exception,
                enable_version_counter=enable_version_counter,
                **options,
            )
            self.beside.append(other)
        self.best_step: int | None = None  # optimizer steps that the weights in the file have taken
        self.best_loss: float | None = None  # which breaks ties
        self._missing: str | None = None
        self._value_before: Tensor | None = None
        self._is_validated = False  # whether validations log the metric
        self._news: Tensor | None = None  # its value from a validation that has not been compared yet

    def state_dict(self) -> dict[str, Any]:
        """Returns what is best so far."""
        return super().state_dict() | {"best_step": self.best_step, "best_loss": self.best_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with what is best so far, also where another run has saved it."""
        super().load_state_dict(state_dict | {"dirpath": self.dirpath})
        self.best_step, self.best_loss = state_dict.get("best_step"), state_dict.get("best_loss")
        self.current_score = state_dict.get("current_score")  # Lightning saves it, and does not load it

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forgets a best checkpoint that is gone, or was overwritten after the checkpoint that a run goes on from.

        The best checkpoint of another run is linked or copied into this run's folder, as this run may not improve on
        it.
        """
        super().on_train_start(trainer, pl_module)
        rest_hook(self, "on_train_batch_start")
        file = Path(self.best_model_path)
        if self.best_step is not None and not file.is_dir() and _step_of(file) != self.best_step:
            self.best_model_path, self.best_model_score, self.best_step, self.best_loss = "", None, None, None
            self.best_k_models.clear()
        if trainer.is_global_zero and self.best_model_path:
            _bring(Path(self.best_model_path), Path(str(self.dirpath)))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Notes the metric's value, to tell what this validation logs from what was logged before."""
        self._value_before = trainer.callback_metrics.get(str(self.monitor))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves if the validation has logged the best value so far. After an epoch's last batch, its end saves."""
        value = trainer.callback_metrics.get(str(self.monitor))
        if value is self._value_before:
            super().on_validation_end(trainer, pl_module)
        elif not self._should_skip_saving_checkpoint(trainer):
            self._is_validated, self._news = True, value
            if not trainer.is_last_batch:
                self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves if the last validation has logged the best value so far, or the training has."""
        if not self._is_validated:
            super().on_train_epoch_end(trainer, pl_module)
        elif not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def _save_topk_checkpoint(self, trainer: L.Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        # Lightning's callback always saves through this method. It would also take a value that belongs to earlier
        # weights.
        if self._is_validated:
            if self._news is None:
                return
            monitor_candidates[str(self.monitor)], self._news = self._news, None
        try:
            super()._save_topk_checkpoint(trainer, monitor_candidates)
        except MisconfigurationException:
            wake_hook(self, "on_train_batch_start")
            logged = ", ".join(name for name in monitor_candidates if name not in ("epoch", "step"))
            self._missing = (
                f"checkpoint.monitor is {self.monitor}, which {type(trainer.lightning_module).__name__} has not logged:"
                f" choose one of {logged}, with --checkpoint.mode min where less is better"
            )

    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        """Says whether a value is better than the best so far, or as good with a lower loss."""
        if super().check_monitor_top_k(trainer, current):
            return True
        loss, score = self._loss_beside(trainer), self.best_model_score
        is_tie = current is not None and score is not None and bool(current == score)
        is_better = is_tie and loss is not None and self.best_loss is not None and loss < self.best_loss
        return trainer.strategy.reduce_boolean_decision(is_better)  # all processes must decide alike

    def _loss_beside(self, trainer: L.Trainer) -> float | None:
        """The loss of the metric's stage: val/loss of val/accuracy, val_loss of val_accuracy."""
        stage = re.match(r"[^/_]*[/_]", str(self.monitor))
        loss = trainer.callback_metrics.get(f"{stage[0]}loss") if stage else None
        return None if loss is None else float(loss)

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        # Before it is saved: they are part of the state.
        self.best_step, self.best_loss = trainer.global_step, self._loss_beside(trainer)
        super()._save_checkpoint(trainer, filepath)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Ends a run without a best checkpoint. The hook is called only once that is known.

        Raises:
            UserError: If the validation before has not logged the metric.
        """
        if self._missing is not None:
            raise UserError(self._missing)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ends a run without a best checkpoint in the same way."""
        super().on_train_end(trainer, pl_module)
        if self._missing is not None:
            raise UserError(self._missing)


def best_checkpoint(trainer: L.Trainer) -> BestCheckpoint | None:
    """Finds the callback that has kept a best checkpoint, among any that a config names; None where none was kept."""
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, BestCheckpoint)]
    return next((callback for callback in callbacks if callback.best_model_path), None)


def _bring(checkpoint: Path, folder: Path) -> None:
    """Links a checkpoint into the folder, or copies it where the folder is on another file system."""
    if checkpoint.parent.resolve() == folder.resolve():
        return
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / checkpoint.name
    own.unlink(missing_ok=True)
    try:
        os.link(checkpoint, own)
    except OSError:
        with replacing(own) as partial:
            shutil.copyfile(checkpoint, partial)


def _step_of(checkpoint: Path) -> int | None:
    if not checkpoint.is_file():
        return None
    if (damage := damage_of(checkpoint)) is not None:
        rank_zero_warn(f"{checkpoint} is damaged, it {damage}: another may become the best")
        return None
    step: int = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)["global_step"]
    return step
