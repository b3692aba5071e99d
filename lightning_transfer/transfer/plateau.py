"""Watches the metric whose plateau ends a phase."""

from collections.abc import Sequence, Set
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from lightning_transfer.errors import UserError
from lightning_transfer.lightning_internals import divides_weights
from lightning_transfer.networks.layer_groups import some_of
from lightning_transfer.transfer.schedule import Phase, Plateau


class PlateauWatch:
    """Counts the checks of one phase's metric without an improvement. Every rank counts the values of rank 0."""

    def __init__(self) -> None:
        self.is_over = False
        self._best: float | None = None
        self._checks_without_improvement = 0
        self._best_weights: dict[str, Tensor] = {}
        self._before_validation: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint has to hold."""
        return {
            "is_over": self.is_over,
            "best": self._best,
            "checks_without_improvement": self._checks_without_improvement,
            "best_weights": self._best_weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.is_over = state["is_over"]
        self._best = state["best"]
        self._checks_without_improvement = state["checks_without_improvement"]
        self._best_weights = state["best_weights"]

    def begin_validation(self, trainer: pl.Trainer, plateau: Plateau) -> None:
        """Remembers the metric's value, to tell a training metric from one that this validation logs."""
        self._before_validation = trainer.callback_metrics.get(plateau.monitor)

    def end_validation(self, trainer: pl.Trainer, plateau: Plateau) -> None:
        """Checks the metric if the validation that just ended has logged it."""
        value = trainer.callback_metrics.get(plateau.monitor)
        self._check(trainer, plateau, None if value is self._before_validation else value)

    def end_train_epoch(self, trainer: pl.Trainer, plateau: Plateau, validation_metrics: Set[str]) -> None:
        """Checks the metric if only the training step logs it. Others are checked at the end of a validation."""
        is_of_training = plateau.monitor in logged_names(trainer) - validation_metrics
        value = trainer.callback_metrics.get(plateau.monitor)
        self._check(trainer, plateau, value if is_of_training else None)

    def restore_best(self, trainer: pl.Trainer) -> None:
        """Loads the weights of the best check, if they were kept."""
        if self._best_weights:
            trainer.lightning_module.load_state_dict(self._best_weights, strict=False)

    def _check(self, trainer: pl.Trainer, plateau: Plateau, value: Tensor | None) -> None:
        # Ranks may hold different values, or none. All must decide the same, or they would wait for each other forever.
        number = trainer.strategy.broadcast(None if value is None else float(value))
        if number is None:
            return
        if plateau.is_improvement(number, self._best):
            self._best, self._checks_without_improvement = number, 0
            if plateau.restore_best:
                self._best_weights = _unfrozen_state(trainer.lightning_module)
        else:
            self._checks_without_improvement += 1
            self.is_over |= self._checks_without_improvement >= plateau.patience


def logged_names(trainer: pl.Trainer) -> set[str]:
    """Returns the names under which the training step, or the validation that is running, logs a metric.

    ``callback_metrics`` holds an epoch's training metric only at its end. In the sanity check it holds no metric of
    several validation loaders. The trainer's collection of results has a name from its first log.
    """
    results = trainer._results
    if results is None:
        return set()
    # Lightning gives callbacks the values of single steps only in training.
    forks = [(result, on_step) for result in results.values() for on_step in (False, True)]
    return {
        name
        for result, on_step in forks
        if (result.meta.on_epoch and not on_step) or results.training
        for name in results._forked_name(result, on_step)
    }


def _unfrozen_state(module: torch.nn.Module) -> dict[str, Tensor]:
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    return {name: value.clone() for name, value in module.state_dict().items() if name not in frozen}


def check_is_logged(
    trainer: pl.Trainer, phases: Sequence[Phase], validation_metrics: Set[str], is_epoch_end: bool
) -> None:
    """Checks that every metric that a phase waits for is logged in validation or in training.

    Args:
        trainer: The trainer, in a fit and after a training step.
        phases: The schedule.
        validation_metrics: Names of the metrics that the sanity check of the validation has logged.
        is_epoch_end: Whether the training has had a whole epoch to log. Earlier, a training step that has logged
            nothing is no error, because it may log at an interval.

    Raises:
        UserError: If a metric is not logged. It names the phase, counted from 1, and lists what is logged.
    """
    plateaus = {n: phase.until.plateau for n, phase in enumerate(phases, 1) if phase.until and phase.until.plateau}
    if not plateaus:
        return
    validation_metrics, in_training = trainer.strategy.broadcast((validation_metrics, logged_names(trainer)))
    logged = sorted(validation_metrics | in_training)
    for number, plateau in plateaus.items():
        if plateau.monitor not in logged and (in_training or is_epoch_end):
            raise UserError(
                f"phase {number} ends by a plateau of {plateau.monitor!r}, which neither validation nor training logs; "
                f"logged are {some_of(logged, limit=20) or 'no metrics'}"
            )


def check_can_restore(trainer: pl.Trainer, phases: Sequence[Phase]) -> None:
    """Checks that each phase that is to restore its best weights can do so.

    Raises:
        UserError: If the strategy divides the weights over the ranks, or a callback averages the weights.
    """
    if not any(phase.until and phase.until.plateau and phase.until.plateau.restore_best for phase in phases):
        return
    if divides_weights(trainer):
        raise UserError(f"restore_best does not go with {type(trainer.strategy).__name__}, which divides the weights")
    if any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        raise UserError("restore_best does not go with an average of the weights, which it would not restore")


def validation_follows(trainer: pl.Trainer) -> bool:
    """Says at the end of a training batch whether Lightning validates before the next one."""
    fit_loop = trainer.fit_loop
    assert fit_loop._data_fetcher is not None
    return fit_loop.epoch_loop._should_check_val_fx(fit_loop._data_fetcher)


def validate(trainer: pl.Trainer) -> None:
    """Runs the validation that Lightning skips on resuming from a checkpoint written just before it."""
    validation = trainer.fit_loop.epoch_loop.val_loop
    validation.restarting = False
    trainer.validating = True
    validation.run()
    trainer.training = True
