"""Defines unfreezing schedules as pure data, without tensors or a trainer: what each phase trains and when it ends."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from lightning_transfer.directions import Direction, decide_direction
from lightning_transfer.errors import UserError
from lightning_transfer.transfer.value_checks import check_amount, check_count

Schedule = Literal["linear_probe", "full", "gradual", "chain"]
LearningRateSchedule = Literal["constant", "slanted_triangular", "one_cycle"]
T = TypeVar("T")


class Position(NamedTuple):
    """Marks a place between two batches: the epoch, the next batch in it, and the optimizer steps taken so far."""

    epoch: int
    batch: int
    step: int


@dataclass(frozen=True)
class Plateau:
    """Says when a metric has stopped improving.

    Attributes:
        monitor: Name of a metric logged in validation or in the training step.
        patience: How many checks in a row without improvement end the phase. A validation metric is checked at the
            end of each validation, and a training metric at the end of each epoch.
        min_delta: A change must be larger than this to be an improvement.
        mode: ``min`` if lower is better, ``max`` if higher is. It follows from most names, such as loss and accuracy.
            For other names it must be given.
        restore_best: Whether the next phase starts from the weights at this phase's best check. It is not possible
            where weights are averaged or divided over ranks.
    """

    monitor: str
    patience: int = 3
    min_delta: float = 0.0
    mode: Direction | None = None
    restore_best: bool = False

    def __post_init__(self) -> None:
        """Checks the values."""
        check_count("plateau: patience", self.patience)
        check_amount("plateau: min_delta", self.min_delta)
        direction = decide_direction(self.monitor, self.mode, "plateau: mode")
        object.__setattr__(self, "mode", direction)  # the class is frozen

    def is_improvement(self, value: float, best: float | None) -> bool:
        """Says whether a value is better than the best so far. A value that is not a number never is."""
        if best is None:
            return not math.isnan(value)
        return value < best - self.min_delta if self.mode == "min" else value > best + self.min_delta


@dataclass(frozen=True)
class Until:
    """Says when a phase ends, counted from its start. The first of several conditions that is met ends it.

    Attributes:
        epochs: Number of epochs. A phase that begins in mid-epoch ends at the same batch of a later one.
        steps: Number of optimizer steps.
        fraction: Share of the optimizer steps of the whole training, between 0 and 1. It is a share of the batches
            where these do not tell how many steps there will be.
        plateau: A metric that has stopped improving.
    """

    epochs: int | None = None
    steps: int | None = None
    fraction: float | None = None
    plateau: Plateau | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.plateau is not None:
            object.__setattr__(self, "plateau", parse(Plateau, self.plateau, "plateau"))
        if all(getattr(self, field.name) is None for field in fields(self)):
            raise UserError("until is empty: expected epochs, steps, fraction or plateau")
        for name, value in {"until: epochs": self.epochs, "until: steps": self.steps}.items():
            if value is not None:
                check_count(name, value)
        if self.fraction is not None and not 0 < self.fraction < 1:
            raise UserError(f"until: fraction is {self.fraction}: expected a share of the training between 0 and 1")

    def is_reached(self, start: Position, now: Position, total_steps: float) -> bool:
        """Says whether a phase is over by epochs, steps or fraction. A plateau is not known here."""
        epoch_reached = self.epochs is not None and now[:2] >= (start.epoch + self.epochs, start.batch)
        return epoch_reached or now.step - start.step >= self.max_steps(total_steps)

    def max_steps(self, total_steps: float) -> float:
        """Returns the most optimizer steps that a phase can take by steps or fraction; infinite without them."""
        return min(math.inf if self.steps is None else self.steps, self.part_of(total_steps))

    def part_of(self, total: float) -> float:
        """Returns the fraction of a length, as a whole number of at least 1; infinite without a fraction or length."""
        is_known = self.fraction is not None and total < math.inf
        return max(1.0, float(round((self.fraction or 0) * total))) if is_known else math.inf

    def __str__(self) -> str:
        """Returns the conditions in words, such as ``2 epochs or plateau of val/loss``."""
        words = (
            (self.epochs, f"{self.epochs} epoch{'s' if self.epochs != 1 else ''}"),
            (self.steps, f"{self.steps} step{'s' if self.steps != 1 else ''}"),
            (self.fraction, f"{100 * (self.fraction or 0):g} % of training"),
            (self.plateau, f"plateau of {self.plateau.monitor}" if self.plateau else ""),
        )
        return " or ".join(text for value, text in words if value is not None)


@dataclass(frozen=True)
class Phase:
    """Describes one phase of a schedule.

    Attributes:
        groups: Layer groups that this phase adds to those already trainable: names, glob patterns of names, or places
            from the input as whole numbers. 0 is the first group, and -1 the last, the head.
        until: When the phase ends; none in the last phase, which runs until training ends.
        only: Whether this phase trains its own groups alone and freezes all others.
        lr_multiplier: Factor on the learning rates of all groups during this phase, in (0, 1].
        lr_schedule: Shape over this phase's steps, by which the scheduler's learning rates are multiplied:
            ``slanted_triangular`` or ``one_cycle``.
    """

    groups: Sequence[str | int]
    until: Until | None = None
    only: bool = False
    lr_multiplier: float = 1.0
    lr_schedule: LearningRateSchedule = "constant"

    def __post_init__(self) -> None:
        """Checks the values."""
        groups = [self.groups] if isinstance(self.groups, str | int) else list(self.groups)
        object.__setattr__(self, "groups", groups)
        if self.until is not None:
            object.__setattr__(self, "until", parse(Until, self.until, "until"))
        if not self.groups:
            raise UserError("groups is empty: expected at least one layer group")
        if not 0 < self.lr_multiplier <= 1:
            raise UserError(f"lr_multiplier is {self.lr_multiplier}: expected more than 0 and at most 1")
        if self.lr_schedule not in get_args(LearningRateSchedule):
            raise UserError(f"lr_schedule is {self.lr_schedule!r}: expected constant, slanted_triangular or one_cycle")

    def learning_rate_factor(self, step: float, length: float) -> float:
        """Returns the factor on the learning rates, at most 1.

        Args:
            step: The step of the phase, from 0.
            length: The length of the phase in the same unit.

        Source:
            Slanted triangular: Howard and Ruder, 2018, with their cut_frac 0.1 and ratio 32. One cycle: Smith, 2018,
            in the form of torch's OneCycleLR (30 % warm-up from 1/25, cosine, down to 1/250000).
        """
        if self.lr_schedule == "slanted_triangular":
            cut = max(1.0, 0.1 * length)
            share = step / cut if step < cut else max(0.0, 1 - (step - cut) / max(1.0, length - cut))
            return self.lr_multiplier * (1 + 31 * share) / 32
        if self.lr_schedule == "one_cycle":
            top, last = max(1.0, 0.3 * length - 1), max(2.0, length - 1)
            start, end, share = (1 / 25, 1.0, step / top) if step <= top else (1.0, 4e-6, (step - top) / (last - top))
            return self.lr_multiplier * (end + (start - end) * (1 + math.cos(math.pi * min(1.0, share))) / 2)
        return self.lr_multiplier


def parse(cls: type[T], value: T | Mapping[str, Any], where: str) -> T:
    """Turns a mapping, as it comes from Python or YAML, into its data class. An instance is returned as it is.

    Raises:
        UserError: If a key is unknown or missing, or a value is out of range. It begins with ``where``.
    """
    if isinstance(value, cls):
        return value
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    if not isinstance(value, Mapping):
        raise UserError(f"{where} is {value!r}: expected a mapping with {', '.join(known)}")
    for key in value:
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r}: expected {', '.join(known)}")
    if known[0] in ("groups", "monitor") and known[0] not in value:
        raise UserError(f"{where}: {known[0]} is missing")
    try:
        return cls(**value)
    except UserError as error:
        raise UserError(f"{where}: {error}" if not str(error).startswith(where) else str(error)) from None


def parse_phases(phases: Sequence[Phase | Mapping[str, Any]]) -> list[Phase]:
    """Turns explicit phases into their data class.

    Raises:
        UserError: If there is no phase, or one is wrong in itself. It names the phase, counted from 1.
    """
    if not phases:
        raise UserError("phases is empty: expected at least one phase, or a schedule in its place")
    parsed = [parse(Phase, phase, f"phase {number}") for number, phase in enumerate(phases, start=1)]
    for number, phase in enumerate(parsed, start=1):
        if number < len(parsed) and phase.until is None:
            raise UserError(f"phase {number} never ends: expected until with epochs, steps, fraction or plateau")
        if number == len(parsed) and phase.until is not None:
            raise UserError(
                f"phase {number} is the last and runs until training ends: expected no until, or one more phase"
            )
    return parsed
