"""Tells Optuna how a trial of a sweep stands after each validation, and stops one that Optuna prunes."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

import lightning as L

if TYPE_CHECKING:
    from optuna import Trial


class RunningTrial(NamedTuple):
    """The trial whose run this process trains.

    Attributes:
        trial: Optuna's trial.
        metric: Full name of the metric, such as ``val/accuracy``.
    """

    trial: "Trial"
    metric: str


PRUNED = "pruned"  # what a pruned trial notes about itself

_running: ContextVar[RunningTrial | None] = ContextVar("running", default=None)


@contextmanager
def running(trial: "Trial", metric: str) -> Iterator[None]:
    """Makes a trial known to the callback of its run, as long as the context lasts."""
    token = _running.set(RunningTrial(trial, metric))
    try:
        yield
    finally:
        _running.reset(token)


class TrialPruning(L.Callback):
    """Reports the metric of each validation to Optuna, and ends the training of a trial that Optuna prunes.

    The step that Optuna gets is the number of optimizer steps. A pruned run ends as if it had reached its last step,
    with checkpoints and a record. Outside a sweep, this callback does nothing.
    """

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reports, and asks whether to go on. All ranks stop together."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            trainer.should_stop |= trainer.strategy.broadcast(self._is_pruned(trainer))

    def _is_pruned(self, trainer: L.Trainer) -> bool:
        now = _running.get()
        if now is None or now.metric not in trainer.callback_metrics:
            return False
        now.trial.report(trainer.callback_metrics[now.metric].item(), trainer.global_step)
        if not now.trial.should_prune():
            return False
        now.trial.set_user_attr(PRUNED, True)
        return True
