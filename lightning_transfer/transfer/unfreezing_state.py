"""Holds the state of an unfreezing schedule, which checkpoints save as plain values."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl

from lightning_transfer.errors import UserError
from lightning_transfer.transfer.plateau import PlateauWatch, check_is_logged, logged_names
from lightning_transfer.transfer.resolution import ResolvedSchedule
from lightning_transfer.transfer.schedule import Phase, Plateau, Position

_WAY_OUT = "resume with the schedule that the run began with, or start a new run from its weights"


@dataclass
class SavedSchedule:
    """Holds the schedule that a checkpoint was written with.

    Attributes:
        trainable_groups: Layer groups that its phase trained.
        facts: All of its settings; empty for a checkpoint of an earlier version.
    """

    trainable_groups: list[str]
    facts: dict[str, str]

    def check(self, index: int, resolved: ResolvedSchedule, facts: dict[str, str]) -> None:
        """Checks that a run resumes with this schedule.

        Args:
            index: The checkpoint's phase, counted from 0.
            resolved: The schedule of the run.
            facts: All of its settings.

        Raises:
            UserError: If the schedules differ. It names the first difference.
        """
        here = resolved.trainable(index) if index < len(resolved.phases) else None
        if here != self.trainable_groups:
            raise UserError(
                f"the checkpoint is in phase {index + 1}, training {', '.join(self.trainable_groups)}; here, phase "
                f"{index + 1} {'trains ' + ', '.join(here) if here else 'does not exist'}: {_WAY_OUT}"
            )
        for name in {**self.facts, **facts} if self.facts else ():
            there, now = self.facts.get(name) or "nothing", facts.get(name) or "nothing"
            if there != now:
                there, now = (textwrap.shorten(value, 100, placeholder=" ...") for value in (there, now))
                raise UserError(f"{name} is {now}: expected {there}, as in the checkpoint; {_WAY_OUT}")


@dataclass
class UnfreezingState:
    """Holds the phase, its start and the checks of its plateau.

    Attributes:
        phase_index: Number of the phase, counted from 0.
        start: The position where it began; None before the first batch.
        watch: The checks of the metric that it waits for.
        owes_validation: Whether a validation follows that Lightning skips on resuming.
        validation_metrics: Names that validation has logged.
        saved_schedule: The schedule of the checkpoint that the run resumed from, until the next phase.
        awaits_metrics: Whether it is still to be checked that every plateau's metric is logged.
    """

    phase_index: int = 0
    start: Position | None = None
    watch: PlateauWatch = field(default_factory=PlateauWatch)
    owes_validation: bool = False
    validation_metrics: frozenset[str] = frozenset()
    saved_schedule: SavedSchedule | None = None
    awaits_metrics: bool = True

    def check_metrics(self, trainer: pl.Trainer, phases: Sequence[Phase], is_epoch_end: bool = False) -> None:
        """Checks that every metric that a phase waits for is logged; see :func:`check_is_logged`."""
        if self.awaits_metrics:
            check_is_logged(trainer, phases, self.validation_metrics, is_epoch_end)

    def plateau(self, phases: Sequence[Phase]) -> Plateau | None:
        """Returns the plateau that the phase waits for, if any."""
        until = phases[self.phase_index].until
        return until.plateau if until else None

    def begin_validation(self, trainer: pl.Trainer, phases: Sequence[Phase]) -> None:
        """Remembers the metric's value, to tell what the validation logs from what was logged before."""
        if (plateau := self.plateau(phases)) is not None:
            self.watch.begin_validation(trainer, plateau)

    def end_validation(self, trainer: pl.Trainer, phases: Sequence[Phase]) -> None:
        """Notes the names that a validation has logged, and checks the metric that the phase waits for."""
        self.owes_validation = False
        self.validation_metrics |= logged_names(trainer)
        if (plateau := self.plateau(phases)) is not None and not trainer.sanity_checking:
            self.watch.end_validation(trainer, plateau)

    def end_train_epoch(self, trainer: pl.Trainer, phases: Sequence[Phase]) -> None:
        """Checks the metric that the phase waits for, if only the training step logs it."""
        self.check_metrics(trainer, phases, is_epoch_end=True)
        self.awaits_metrics = False
        if (plateau := self.plateau(phases)) is not None:
            self.watch.end_train_epoch(trainer, plateau, self.validation_metrics)

    def begin_next_phase(self, now: Position) -> None:
        """Goes on to the next phase."""
        self.phase_index += 1
        self.start, self.watch, self.saved_schedule = now, PlateauWatch(), None

    def state_dict(self, schedule: SavedSchedule | None) -> dict[str, Any]:
        """Returns what a checkpoint has to hold.

        Args:
            schedule: The schedule that trains. None means that of the checkpoint that the run resumed from.
        """
        schedule = schedule or self.saved_schedule
        return {
            "phase_index": self.phase_index,
            "trainable_groups": schedule and schedule.trainable_groups,
            "schedule": schedule and schedule.facts,
            "start": self.start and tuple(self.start),
            "plateau": self.watch.state_dict(),
            "owes_validation": self.owes_validation,
            "validation_metrics": sorted(self.validation_metrics),
        }

    @classmethod
    def from_state_dict(cls, saved: dict[str, Any]) -> "UnfreezingState":
        """Builds the state from a checkpoint's, also from one of an earlier version."""
        groups = saved["trainable_groups"]
        state = cls(
            phase_index=saved["phase_index"],
            start=Position(*saved["start"]) if saved["start"] else None,
            owes_validation=saved["owes_validation"],
            validation_metrics=frozenset(saved.get("validation_metrics", ())),
            awaits_metrics=False,
            saved_schedule=None if groups is None else SavedSchedule(groups, saved.get("schedule") or {}),
        )
        state.watch.load_state_dict(saved["plateau"])
        return state
