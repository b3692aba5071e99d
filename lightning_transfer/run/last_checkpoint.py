"""Keeps the last checkpoint of a run, and ends a run that is asked to stop."""

import signal
import sys
from typing import Any

import lightning as L
import torch
import torch.distributed
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from lightning_transfer.cluster.launchers import is_launched_child, requeue
from lightning_transfer.cluster.signals import SIGUSR1, StopSignals, say_last
from lightning_transfer.lightning_internals import end_what_was_trained, leave_signals_alone, rest_hook, wake_hook
from lightning_transfer.run.checkpoint_io import DurableCheckpointIO
from lightning_transfer.run.guarded_strategy import guard
from lightning_transfer.run.plain_types import check_plain
from lightning_transfer.transfer.plateau import validation_follows

_STEP_HOOKS = ("on_train_batch_start", "on_train_batch_end")


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``last.ckpt``: after every epoch, every validation within one, and where the run is asked to stop.

    After SIGINT (Ctrl-C), SIGTERM, SIGHUP or SIGUSR1 the run stops at the next step boundary. Several processes stop
    one boundary later, when all know of the signal. By then the optimizer has stepped and a due validation is done, and
    a resumed run goes on from there. The exit status is 128 plus the signal's number, 143 for SIGTERM and 130 for
    SIGINT. On SIGUSR1 a SLURM job also puts itself back into the queue.

    Args:
        signals: Notes the signals.
    """

    def __init__(self, signals: StopSignals) -> None:
        # The option save_last of the best checkpoint's callback would save only where there is a new best.
        super().__init__(filename="last", enable_version_counter=False)
        self._signals = signals
        self._stopping = 0  # the signal for which a checkpoint has been written
        self._processes: Any = None  # the group of processes that ask each other
        self._highest = torch.tensor(0)  # the highest signal of all processes, once the question is answered
        self._question: torch.distributed.Work | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Checks that checkpoints can be read later, and has signals wait for a step boundary from now on.

        Raises:
            UserError: If no command could read a part of the checkpoint. It names the part.
        """
        super().on_train_start(trainer, pl_module)
        check_plain(trainer)
        self._signals.training = True
        if trainer.world_size > 1:
            # The group uses CPU memory: asking the accelerators would make the host wait for them in every step.
            self._processes = torch.distributed.new_group(backend="gloo")
        elif not self._signals.received:
            # Before a signal comes, the hooks of a step have nothing to do.
            for name in _STEP_HOOKS:
                rest_hook(self, name)
            self._signals.on_signal = self._wake

    def _wake(self) -> None:
        for name in _STEP_HOOKS:
            wake_hook(self, name)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lets SIGTERM end the process at once again.

        It saves where there is no last checkpoint. A process was then killed before its first, and this one has gone
        on from the best.
        """
        super().on_train_end(trainer, pl_module)
        if not trainer.strategy.broadcast(self._fs.exists(self.path)):
            self._save(trainer)
        self._signals.training = False
        self._wake()
        if self._question is not None:
            self._question.wait()
            self._question = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Lets SIGTERM end the process at once again."""
        super().on_exception(trainer, pl_module, exception)
        self._signals.training = False
        self._wake()

    # Lightning resumes exactly from these three hooks. Right before a validation it does not: that would be skipped.

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves if asked to stop, unless a validation or the end of the epoch follows."""
        if not self._processes and not self._signals.received:
            return
        if not (trainer.is_last_batch or trainer.fit_loop._should_accumulate() or validation_follows(trainer)):
            self._save_if_asked_to_stop(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves in a fit, unless the end of the epoch follows, or gradients are still being added up."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        if not (trainer.is_last_batch or trainer.fit_loop._should_accumulate()):
            self._save(trainer)
            self._save_if_asked_to_stop(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves, also where there was no validation. Lightning might save only after one."""
        self._save(trainer)
        self._save_if_asked_to_stop(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stops if asked to. It stops only here, because Lightning writes a step's metrics after the hooks above."""
        if self._stopping:
            self._stop(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def _save_if_asked_to_stop(self, trainer: L.Trainer) -> None:
        if signum := self._signal_of_all() if self._processes else self._signals.received:
            self._stopping = signum
            trainer.save_checkpoint(self.path, weights_only=False)

    def _signal_of_all(self) -> int:
        """Returns the signal that any process had received one boundary ago, and asks anew.

        Wherever the signal arrived, all processes stop at the same step. Otherwise they would wait for each other
        forever. No process waits for an answer, which has a step's time to come.
        """
        signum = 0
        if self._question is not None:
            self._question.wait()
            signum = int(self._highest)
        self._highest = torch.tensor(self._signals.received)
        self._question = torch.distributed.all_reduce(
            self._highest, torch.distributed.ReduceOp.MAX, group=self._processes, async_op=True
        )
        return signum

    def _stop(self, trainer: L.Trainer) -> None:
        self._signals.stopping = True
        if trainer.is_global_zero:
            name = signal.Signals(self._stopping).name
            say_last(f"{name}: stopped after step {trainer.global_step}, in {self.path}", sys.stdout)
            if self._stopping == SIGUSR1:
                requeue()
        # Lightning's launcher kills the main process where a child fails, before it can give its own status.
        raise SystemExit(0 if is_launched_child() else 128 + self._stopping)

    @property
    def path(self) -> str:
        """The file of the checkpoint."""
        return self.format_checkpoint_name({})


def make_preemptible(trainer: L.Trainer) -> L.Trainer:
    """Gives a trainer durable checkpoints, unless it has a plugin for them, and removes its own signal handlers.

    A training that was killed after its last step ends when it goes on.

    Its checkpoints are data, with every plugin.
    """
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = DurableCheckpointIO()
    guard(trainer.strategy)
    leave_signals_alone(trainer)
    end_what_was_trained(trainer)
    return trainer
