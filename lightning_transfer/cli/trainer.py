"""Holds the trainer of the command line, and checks its settings and callbacks."""

from collections.abc import Sequence
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import BackboneFinetuning, BatchSizeFinder, LearningRateFinder, SpikeDetection
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_transfer.cluster.launchers import check_address
from lightning_transfer.directions import decide_direction, direction_of
from lightning_transfer.errors import UserError
from lightning_transfer.networks.processor import has_bfloat16
from lightning_transfer.run.best_checkpoint import BestCheckpoint
from lightning_transfer.run.last_checkpoint import LastCheckpoint
from lightning_transfer.run.verbosity import print_result
from lightning_transfer.transfer.low_rank import refuse_mean_of_adapters
from lightning_transfer.transfer.plan_table import plan
from lightning_transfer.transfer.range_test import Curve, range_test
from lightning_transfer.transfer.unfreezing import ProgressiveUnfreezing

# A trainer with these settings can be built on every machine.
ONE_CPU = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "32-true"}


# These callbacks of Lightning cannot work in a run of the command line. The texts give the reason and the way out.
_CANNOT_WORK = {
    BatchSizeFinder: "would train in between, and change the batch size once the steps of the run have been counted:"
    " set data.batch_size, and see by --trainer.fast_dev_run 2 whether it fits into memory",
    LearningRateFinder: "would train in between, and looks for a learning rate in the module, not in its optimizer:"
    " use the command lightning-transfer lr-find",
    SpikeDetection: "cannot read its own state from a checkpoint, which a test and a resumed run need: leave it out, a"
    " run whose loss is not a number ends by itself",
}


def check_trainer(trainer: L.Trainer) -> L.Trainer:
    """Refuses settings that cannot give a good training, and warns of a precision that is slow on this CPU.

    Raises:
        UserError: If an interval is not more than 0, a number is below 0, or weights are in float16 on a CPU. Also if
            the strategy trains in copies of this process, from which the record of the run does not come back. Also if
            the address of the first process is none.
    """
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch", "val_check_interval"):
        value = getattr(trainer, name)
        if isinstance(value, int | float) and value <= 0:
            raise UserError(f"trainer.{name} is {value}: expected more than 0")
    for name in ("min_epochs", "min_steps", "log_every_n_steps", "gradient_clip_val"):
        value = getattr(trainer, name)
        if value is not None and value < 0:
            raise UserError(f"trainer.{name} is {value}: expected 0 or more")
    if trainer.world_size > 1:
        check_address()
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _MultiProcessingLauncher):
        raise UserError(f"trainer.strategy is ddp_{launcher._start_method}: expected ddp, which starts its processes")
    if trainer.strategy.root_device.type == "cpu":
        if trainer.precision == "16-true":
            raise UserError("precision 16-true gives non-finite weights on a CPU: choose bf16-true or bf16-mixed")
        # On such a CPU, products of bfloat16 matrices ran at a hundredth of float32's speed.
        if "16" in str(trainer.precision) and not has_bfloat16():
            rank_zero_warn(
                f"precision {trainer.precision}: this CPU has no instructions for it, 32-true is many times as fast"
            )
    return trainer


def check_callbacks(trainer: L.Trainer, model: L.LightningModule) -> None:
    """Refuses a callback that does not fit the module, contradicts itself or conflicts with this project's callbacks.

    Raises:
        UserError: If a callback of Lightning cannot work here: its finders of a batch size and a learning rate, its
            detection of spikes, or its finetuning of a backbone where there is none. Also if a callback's mode is wrong
            for its metric, or another callback would write best.ckpt or last.ckpt.
    """
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        for kind, reason in _CANNOT_WORK.items():
            if isinstance(callback, kind):
                raise UserError(f"{kind.__name__} in trainer.callbacks {reason}")
        metric, mode = getattr(callback, "monitor", None), getattr(callback, "mode", None)
        if isinstance(metric, str) and isinstance(mode, str) and direction_of(metric):
            decide_direction(metric, mode, f"mode of {type(callback).__name__} in trainer.callbacks")
    _check_names_of_checkpoints(trainer)
    _check_strategies(callbacks)
    if any(isinstance(callback, BackboneFinetuning) for callback in callbacks) and not hasattr(model, "backbone"):
        name = type(model).__name__
        raise UserError(
            f"BackboneFinetuning trains a module's backbone, and {name} has none: use ProgressiveUnfreezing"
        )


def _check_strategies(callbacks: Sequence[L.Callback]) -> None:
    """Refuses strategies that contradict each other."""
    schedules = [callback for callback in callbacks if isinstance(callback, ProgressiveUnfreezing)]
    if len(schedules) > 1:
        kinds = " and ".join(type(callback).__name__ for callback in schedules)
        raise UserError(f"trainer.callbacks has {kinds}: expected one schedule, as both would freeze; leave one out")
    refuse_mean_of_adapters(callbacks)


def _check_names_of_checkpoints(trainer: L.Trainer) -> None:
    """Refuses a callback that would write the file of the best or the last checkpoint."""
    checkpoints = trainer.checkpoint_callbacks
    ours = [callback for callback in checkpoints if isinstance(callback, BestCheckpoint | LastCheckpoint)][-2:]
    own = Path(trainer.log_dir or trainer.default_root_dir, "checkpoints").resolve()
    for callback in checkpoints:
        if callback in ours:
            continue
        folder, file = getattr(callback, "dirpath", None), getattr(callback, "filename", None)
        names = {file: "another filename"}
        if getattr(callback, "save_last", None):
            names["last"] = "no save_last, as last.ckpt is kept in any case"
        for name in {"best", "last"} & names.keys():
            if folder is None or Path(folder).resolve() == own:
                raise UserError(
                    f"{type(callback).__name__} in trainer.callbacks would write {name}.ckpt, which is the run's"
                    f" {name} checkpoint: give it {names[name]}"
                )


class Trainer(L.Trainer):
    """Adds to Lightning's trainer the commands that need a model and data, but keep no training.

    Attributes:
        run_folder: The folder of the run on the first rank, whatever its loggers are; None without a fit.
    """

    run_folder: str | None = None

    @property
    def log_dir(self) -> str | None:
        """Folder of the run, or where Lightning would write. It is broadcast, so all ranks must ask for it."""
        folder: str | None = self.strategy.broadcast(self.run_folder)
        return folder or super().log_dir

    def plan(self, model: L.LightningModule, datamodule: L.LightningDataModule | None = None) -> None:
        """Prints the phases of ProgressiveUnfreezing: when each begins, what it trains, at which cost.

        Nothing is trained and nothing is written.

        Args:
            model: The module to be trained.
            datamodule: Its data.
        """
        print_result(plan(self, model, datamodule))

    def lr_find(
        self,
        model: L.LightningModule,
        datamodule: L.LightningDataModule | None = None,
        lowest: float = 1e-6,
        highest: float = 10.0,
        steps: int = 100,
    ) -> list[Curve]:
        """Suggests a learning rate for each phase of the schedule, by a range test on copies of the model.

        Args:
            model: The module to be trained.
            datamodule: Its data.
            lowest: The first learning rate tried.
            highest: The last learning rate. A test ends before it where the loss explodes.
            steps: Number of optimizer steps of a test.
        """
        return range_test(self, model, datamodule, lowest, highest, steps)

    def prepare(self, model: L.LightningModule, datamodule: L.LightningDataModule) -> None:
        """Fills the caches that a run needs: data, downloaded and decoded, and weights. Nothing is trained.

        After it has run on a login node with the same configs, compute nodes need no network. It needs no GPU.

        Args:
            model: The module to be trained, built with its downloaded weights.
            datamodule: Its data.
        """
        datamodule.prepare_data()
        datamodule.setup("fit")
        if is_overridden("test_dataloader", datamodule):
            datamodule.setup("test")
            datamodule.test_dataloader()
        print_result(
            "prepared: runs of these configs need no network, with HF_HUB_OFFLINE=1 and the same cache folders"
        )
