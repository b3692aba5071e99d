"""Resolves a schedule on a module: which parameters each phase trains, and whether the optimizer holds them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any, get_args

from torch import nn
from torch.optim import LBFGS, Optimizer

from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import (
    LayerGroup,
    LayerGroups,
    group_patterns,
    resolve_layer_groups,
    some_of,
)
from lightning_transfer.transfer.param_groups import check_lr_decay, own_layer_groups
from lightning_transfer.transfer.parameter_kinds import keep_only
from lightning_transfer.transfer.phases import preset_phases, resolve_phases, trainable_groups
from lightning_transfer.transfer.schedule import LearningRateSchedule, Phase, Schedule, Until, parse, parse_phases


@dataclass
class ResolvedSchedule:
    """Holds a schedule that is resolved on one module.

    Attributes:
        groups: The layer groups by name, from input to head, then ``rest``.
        phases: The phases, with the names of layer groups in place of patterns.
        always_trainable: Names of the groups that every phase trains.
        optimizer_groups: The layer groups as ``parameter_groups`` lists them. A tied parameter belongs to the group
            nearest the head, whichever thaws first.
        frozen_before: Names of the layer groups' parameters that did not require grad before, and stay frozen.
    """

    groups: dict[str, LayerGroup]
    phases: list[Phase]
    always_trainable: set[str]
    optimizer_groups: dict[str, LayerGroup]
    frozen_before: list[str]

    def trainable(self, index: int) -> list[str]:
        """Returns the layer groups that phase ``index``, counted from 0, trains, from input to head."""
        names = trainable_groups(self.phases, index) | self.always_trainable
        return [name for name, group in self.groups.items() if name in names and group.parameters]

    def parameters(self, names: Sequence[str]) -> dict[str, nn.Parameter]:
        """Returns the parameters of some layer groups by their full names."""
        return {key: parameter for name in names for key, parameter in self.groups[name].parameters.items()}

    def outcome(self, index: int, step: int) -> dict[str, Any]:
        """Returns how far a training came.

        Args:
            index: The phase in which the training ended, counted from 0.
            step: The optimizer step after which it ended.

        Returns:
            The number of ``phases`` and of ``phases_begun``, the layer groups that were ``never_trained``, and
            ``because``: the reason in words, or None where every phase has begun.
        """
        count = len(self.phases)
        trained = {name for earlier in range(index + 1) for name in self.trainable(earlier)}
        missed = {name for later in range(index + 1, count) for name in self.trainable(later)} - trained
        because = (
            f"phase {index + 2} of {count} never began: phase {index + 1} ends by {self.phases[index].until}, and"
            f" training ended first, after step {step}"
        )
        return {
            "phases": count,
            "phases_begun": index + 1,
            "never_trained": [name for name in self.groups if name in missed],
            "because": because if index + 1 < count else None,
        }

    def facts(self) -> dict[str, str]:
        """Returns all settings of the schedule, each as a text by its name. Checkpoints hold them."""
        filled = {name: group.parameters for name, group in self.groups.items() if group.parameters}
        throughout = [name for name in filled if name in self.always_trainable]
        facts = {"number of phases": str(len(self.phases)), "groups that train throughout": ", ".join(throughout)}
        for number, phase in enumerate(self.phases, start=1):
            facts |= _flat(f"phase {number}", asdict(phase))
        return facts | {f"layer group {name}": ", ".join(parameters) for name, parameters in filled.items()}

    def check_optimizers(self, optimizers: Sequence[Optimizer]) -> None:
        """Checks that the optimizers hold every parameter that some phase trains, and hold it once.

        Raises:
            UserError: If a parameter is missing or held twice, or LBFGS would move one that freezes again.
        """
        held = Counter(
            id(parameter)
            for optimizer in optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        )
        trained = [name for name in self.groups if any(name in self.trainable(i) for i in range(len(self.phases)))]
        missing = [name for name, parameter in self.parameters(trained).items() if not held[id(parameter)]]
        if missing:
            raise UserError(
                f"the optimizer does not hold {some_of(missing)}, which a phase trains: expected all parameters from "
                "the start (a frozen one costs nothing), by self.parameters() or parameter_groups(self, ...)"
            )
        twice = [name for name, parameter in self.parameters(trained).items() if held[id(parameter)] > 1]
        if twice:
            raise UserError(f"the optimizers hold {some_of(twice)} more than once: expected each parameter once")
        for number in range(1, len(self.phases)):
            again = [name for name in self.trainable(number - 1) if name not in self.trainable(number)]
            if again and any(isinstance(optimizer, LBFGS) for optimizer in optimizers):
                raise UserError(
                    f"phase {number + 1} freezes {', '.join(again)} again, which LBFGS goes on to move by its history:"
                    " use another optimizer, or phases that only add groups"
                )


def _flat(key: str, value: Any) -> dict[str, str]:
    """Writes nested settings as texts. A number has the same text whether it is an int or a float."""
    if isinstance(value, dict):
        return {inner: text for name, part in value.items() for inner, text in _flat(f"{key} {name}", part).items()}
    if isinstance(value, list | tuple):
        return {key: ", ".join(map(str, value))}
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return {key: f"{float(value):g}" if is_number else str(value)}


def check_schedule(
    schedule: Schedule | None,
    until: Until | dict[str, Any] | None,
    phases: list[Phase] | list[dict[str, Any]] | None,
    lr_schedule: LearningRateSchedule,
    rest: str | None,
    lr_decay: float | None,
    frozen_norm_layers: str,
) -> dict[str, Any]:
    """Checks the arguments of ``ProgressiveUnfreezing``, and returns those that ``resolve_schedule`` takes.

    Raises:
        UserError: If one of them is wrong in itself, or they contradict each other.
    """
    if phases is not None and (schedule is not None or until is not None or lr_schedule != "constant"):
        raise UserError("phases are given as well as schedule, until or lr_schedule: expected those within each phase")
    for name, value, known in (
        ("schedule", schedule, get_args(Schedule)),
        ("rest", rest, ("frozen", "trainable")),
        ("frozen_norm_layers", frozen_norm_layers, ("eval", "tracking")),
        ("lr_schedule", lr_schedule, get_args(LearningRateSchedule)),
    ):
        if value is not None and value not in known:
            raise UserError(f"{name} {value!r} is not one of {', '.join(known)}")
    if lr_decay is not None:
        check_lr_decay(lr_decay)
    return {
        "schedule": parse_phases(phases) if phases is not None else schedule or "gradual",
        "until": parse(Until, until, "until") if until is not None else Until(epochs=1),
        "lr_schedule": lr_schedule,
        "rest": rest,
    }


def resolve_schedule(
    module: nn.Module,
    layer_groups: LayerGroups | None,
    schedule: str | Sequence[Phase],
    until: Until,
    lr_schedule: LearningRateSchedule,
    rest: str | None,
    thaw_frozen: bool = False,
    parameters: Sequence[str] | None = None,
) -> ResolvedSchedule:
    """Resolves a named schedule or explicit phases on a module.

    Args:
        module: The module that the paths of the layer groups start from.
        layer_groups: The layer groups from input to head; ``None`` takes the module's own.
        schedule: A schedule's name, or phases.
        until: When each phase of a named schedule but the last ends.
        lr_schedule: The shape of the learning rates over each phase of a named schedule.
        rest: How to treat parameters that no layer group covers, and layer groups that no phase covers: ``frozen``,
            ``trainable``, or ``None`` for an error.
        thaw_frozen: Whether parameters that do not require grad now are trained with their layer group.
        parameters: Which parameters below the head may train, see :func:`keep_only`; ``None`` for all.

    Raises:
        UserError: If anything does not fit. It names the phase or group and lists what exists.
    """
    patterns = group_patterns(own_layer_groups(module, layer_groups))
    names = list(patterns)
    if isinstance(schedule, str):
        phases = preset_phases(schedule, names, until, lr_schedule)
    else:
        phases = resolve_phases(schedule, names)
    thaw_order = dict.fromkeys(str(name) for phase in phases for name in phase.groups)
    groups = resolve_layer_groups(module, patterns, list(thaw_order), rest)
    tied = {name for name in names if not groups[name].parameters}
    frozen_before = [] if thaw_frozen else _take_frozen_out(groups)
    optimizer_groups = resolve_layer_groups(module, patterns, rest=rest)
    if parameters is not None:
        keep_only(parameters, module, groups, head=optimizer_groups[names[-1]])
    empty = {name for name in names if not groups[name].parameters}
    uncovered = set() if isinstance(schedule, str) else set(names) - thaw_order.keys() - empty
    if uncovered and rest is None:
        raise UserError(
            f"no phase trains layer group {some_of(name for name in names if name in uncovered)}; "
            "add it to a phase, or set rest to 'frozen' or 'trainable'"
        )
    if isinstance(schedule, str):
        if names[-1] in empty:
            raise UserError(f"the head, {names[-1]}, was frozen before: make it require grad, or set thaw_frozen")
        phases = preset_phases(schedule, [name for name in names if name not in empty], until, lr_schedule)
    for number, phase in enumerate(phases, start=1):
        if set(phase.groups) <= empty:
            reason = "were frozen before; drop the phase, make them require grad, or set thaw_frozen"
            if set(phase.groups) <= tied:
                reason = "are tied to a group that thaws before; drop the phase or join the two groups"
            elif any(groups[name].frozen for name in map(str, phase.groups)):
                reason = f"have nothing of what may train, {', '.join(parameters or ())}; drop the phase"
            raise UserError(f"phase {number}: the weights of {', '.join(map(str, phase.groups))} {reason}")
    always = uncovered | (groups.keys() - names) if rest == "trainable" else set()
    return ResolvedSchedule(groups, phases, always, optimizer_groups, frozen_before)


def _take_frozen_out(groups: dict[str, LayerGroup]) -> list[str]:
    """Takes parameters that were frozen before out of the layer groups, and returns their names.

    The base of an adapter and a fixed position embedding are examples.
    """
    frozen = []
    for group in groups.values():
        frozen += [name for name, parameter in group.parameters.items() if not parameter.requires_grad]
        group.parameters = {name: p for name, p in group.parameters.items() if p.requires_grad}
    return frozen
