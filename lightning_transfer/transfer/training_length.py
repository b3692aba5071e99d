"""Measures how long a training is in optimizer steps, and in batches where these do not tell the steps."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import lightning.pytorch as pl
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from lightning_transfer.errors import UserError
from lightning_transfer.transfer.schedule import Phase, Position


class TrainingLength(NamedTuple):
    """Holds the length of a training in optimizer steps or in batches. It is infinite where it is not known beforehand.

    Attributes:
        total_steps: Steps of the whole training.
        steps_per_epoch: Steps of one epoch.
        by_batches: The length in batches, where these do not tell how many steps there will be.
        unit: The unit that is counted, ``step`` or ``batch``.
    """

    total_steps: float
    steps_per_epoch: float
    by_batches: "TrainingLength | None" = None
    unit: str = "step"

    @property
    def measures(self) -> "list[TrainingLength]":
        """Length in each unit in which it may be known."""
        return [self, self.by_batches] if self.by_batches else [self]

    def passed(self, place: Position) -> float:
        """Returns how many steps or batches of the training have passed."""
        return place.step if self.unit == "step" else place.epoch * self.steps_per_epoch + place.batch

    def of_phase(self, phase: Phase, start: float) -> float:
        """Returns the most steps or batches that a phase can take; infinite where only a plateau ends it.

        Args:
            phase: The phase.
            start: The step or batch at which it begins.
        """
        if phase.until is None:
            return self.total_steps - start
        epochs = math.inf if phase.until.epochs is None else phase.until.epochs * self.steps_per_epoch
        ends = phase.until.max_steps if self.unit == "step" else phase.until.part_of
        return min(epochs, ends(self.total_steps))

    def is_over(self, phase: Phase, start: Position, now: Position) -> bool:
        """Says whether a phase is over by epochs, steps or fraction. A plateau is not known here."""
        if phase.until is None:
            return False
        if phase.until.is_reached(start, now, self.total_steps):
            return True
        unit = self.by_batches
        return unit is not None and unit.passed(now) - unit.passed(start) >= phase.until.part_of(unit.total_steps)

    def not_before(self, phase: Phase, start: Position) -> tuple[float, float]:
        """Returns an epoch and an optimizer step. A phase cannot be over before one of the two has come."""
        if phase.until is None:
            return math.inf, math.inf
        epoch = math.inf if phase.until.epochs is None else start.epoch + phase.until.epochs
        return epoch, start.step + (0 if self.by_batches else phase.until.max_steps(self.total_steps))

    def learning_rate_factor(self, phase: Phase, start: Position, now: Position) -> float:
        """Returns the factor on the learning rates at a place in a phase, at most 1."""
        begins = [(unit, unit.passed(start)) for unit in self.measures]
        parts = [(unit.passed(now) - begin, unit.of_phase(phase, begin)) for unit, begin in begins]
        return phase.learning_rate_factor(*max(parts, key=lambda part: part[0] / max(1.0, part[1])))

    def phase_starts(self, phases: Sequence[Phase]) -> list[float]:
        """Returns the latest step or batch at which each phase begins; infinite after one that only a plateau ends."""
        starts = [0.0]
        for phase in phases[:-1]:
            starts.append(starts[-1] + self.of_phase(phase, starts[-1]))
        return starts

    def check(self, phases: Sequence[Phase]) -> None:
        """Checks that every length that a phase needs is known.

        Raises:
            UserError: If one is not known. It names the phase, counted from 1.
        """
        for number, phase in enumerate(phases, start=1):
            if phase.until and phase.until.fraction and all(math.isinf(unit.total_steps) for unit in self.measures):
                raise UserError(
                    f"phase {number} ends by a fraction of the training, whose length is not known: expected steps"
                )
            if phase.lr_schedule != "constant" and all(math.isinf(unit.of_phase(phase, 0)) for unit in self.measures):
                raise UserError(
                    f"phase {number}: {phase.lr_schedule} needs the phase's length, not known; add epochs or steps to"
                    " until"
                )


def training_length(trainer: pl.Trainer) -> TrainingLength:
    """Returns how long a trainer will train on its data."""
    total_steps, batches = float(trainer.estimated_stepping_batches), float(trainer.num_training_batches)
    if not _hides_steps(trainer):
        return TrainingLength(
            total_steps=total_steps if total_steps >= 0 else math.inf,
            steps_per_epoch=math.inf if math.isinf(batches) else math.ceil(batches / trainer.accumulate_grad_batches),
        )
    epochs = math.inf if trainer.max_epochs is None or trainer.max_epochs < 0 else trainer.max_epochs
    by_batches = TrainingLength(epochs * batches, batches, unit="batch")
    return TrainingLength(trainer.max_steps if trainer.max_steps >= 0 else math.inf, math.inf, by_batches)


def _hides_steps(trainer: pl.Trainer) -> bool:
    """Says whether the number of optimizer steps in an epoch does not follow from its batches."""
    # With manual optimization only the training step knows its steps. trainer.global_step counts every optimizer's.
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return not trainer.lightning_module.automatic_optimization or any(
        isinstance(callback, GradientAccumulationScheduler) for callback in callbacks
    )
