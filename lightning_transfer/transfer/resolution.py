"""Meets a schedule with a module: which parameters each phase trains, and whether the optimizer holds them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import nn
from torch.optim import Optimizer

from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import (
    LayerGroup,
    LayerGroups,
    group_patterns,
    resolve_layer_groups,
    some_of,
)
from lightning_transfer.transfer.param_groups import own_layer_groups
from lightning_transfer.transfer.schedule import (
    LearningRateSchedule,
    Phase,
    Until,
)


@dataclass
class ResolvedSchedule:
    """A schedule on one module.

    Attributes:
        groups: Layer group name -> its parameters and submodules, from input to head, then ``rest``.
        phases: The phases, with the names of layer groups in place of patterns.
        always_trainable: The groups that every phase trains.
        optimizer_groups: The layer groups as ``parameter_groups`` lists them: a tied parameter belongs to the one
            nearest the head, whichever thaws first.
    """

    groups: dict[str, LayerGroup]
    phases: list[Phase]
    always_trainable: set[str]
    optimizer_groups: dict[str, LayerGroup]

    def trainable(self, index: int) -> list[str]:
        """Return the layer groups that phase ``index``, from 0, trains, from input to head."""
        names = trainable_groups(self.phases, index) | self.always_trainable
        return [name for name, group in self.groups.items() if name in names and group.parameters]

    def parameters(self, names: Sequence[str]) -> dict[str, nn.Parameter]:
        """Return the parameters of some layer groups by their full names."""
        return {key: parameter for name in names for key, parameter in self.groups[name].parameters.items()}

    def check_resumed(self, index: int, groups: Sequence[str]) -> None:
        """Raise if a checkpoint's phase ``index``, from 0, did not train what this schedule's does.

        Raises:
            UserError: It says what each of the two trains.
        """
        here = self.trainable(index) if index < len(self.phases) else None
        if here != list(groups):
            raise UserError(
                f"the checkpoint is in phase {index + 1}, training {', '.join(groups)}; here, phase {index + 1} "
                f"{'trains ' + ', '.join(here) if here else 'does not exist'}: resume with the schedule that the run "
                "began with, or start a new run from its weights"
            )

    def check_optimizers(self, optimizers: Sequence[Optimizer]) -> None:
        """Raise if the optimizers do not hold every parameter that some phase trains, once.

        Raises:
            UserError: It names the parameters and what to give the optimizer.
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
                f"the optimizer does not hold {some_of(missing)}, which a phase trains; give it all parameters from "
                "the start (a frozen one costs nothing): self.parameters() or parameter_groups(self, ...)"
            )
        twice = [name for name, parameter in self.parameters(trained).items() if held[id(parameter)] > 1]
        if twice:
            raise UserError(f"the optimizers hold {some_of(twice)} more than once; list each parameter once")


def preset_phases(
    schedule: str, names: Sequence[str], until: Until, lr_schedule: LearningRateSchedule = "constant"
) -> list[Phase]:
    """Write a named schedule out as phases.

    Args:
        schedule: ``linear_probe`` trains the last group, the head. ``full`` trains everything. ``gradual`` thaws from
            the head down, one group a phase. ``chain`` trains one group at a time, the head first, then from the
            input up, and everything at last.
        names: The layer groups from input to head.
        until: When each phase but the last ends.
        lr_schedule: The shape of the learning rates over each phase.

    Source:
        Gradual unfreezing: Howard and Ruder, 2018. Chain-thaw: Felbo et al., Using millions of emoji occurrences to
        learn any-domain representations, 2017.
    """
    *body, head = names
    one_at_a_time = [Phase([name], only=True) for name in (head, *body)]
    phases = {
        "linear_probe": [Phase([head])],
        "full": [Phase(names)],
        "gradual": [Phase([name]) for name in reversed(names)],
        "chain": [*one_at_a_time, Phase(names)] if body else one_at_a_time,
    }[schedule]
    phases = [replace(phase, lr_schedule=lr_schedule) for phase in phases]
    return [replace(phase, until=until) for phase in phases[:-1]] + phases[-1:]


def resolve_phases(phases: Sequence[Phase], names: Sequence[str]) -> list[Phase]:
    """Replace patterns of layer groups in explicit phases by the groups that they name.

    Raises:
        UserError: If a group is unknown or a phase adds nothing; it names the phase, counted from 1.
    """
    resolved: list[Phase] = []
    for number, phase in enumerate(phases, start=1):
        groups: dict[str, None] = {}
        for pattern in phase.groups:
            found = [pattern] if pattern in names else [name for name in names if fnmatchcase(name, pattern)]
            if not found:
                raise UserError(f"phase {number}: layer group {pattern!r} is not one of {some_of(names, limit=20)}")
            groups.update(dict.fromkeys(found))
        resolved.append(replace(phase, groups=list(groups)))
        if number > 1 and trainable_groups(resolved, number - 1) == trainable_groups(resolved, number - 2):
            raise UserError(f"phase {number} trains what the phase before it trains; add a group to it")
    return resolved


def trainable_groups(phases: Sequence[Phase], index: int) -> set[str]:
    """Return the layer groups that phase ``index``, counted from 0, trains."""
    groups: set[str] = set()
    for phase in phases[: index + 1]:
        groups = set(phase.groups) | (set() if phase.only else groups)
    return groups


def resolve_schedule(
    module: nn.Module,
    layer_groups: LayerGroups | None,
    schedule: str | Sequence[Phase],
    until: Until,
    lr_schedule: LearningRateSchedule,
    rest: str | None,
) -> ResolvedSchedule:
    """Resolve a named schedule or explicit phases on a module.

    Args:
        module: Where the layer groups' paths start.
        layer_groups: From input to head; ``None`` takes the module's own.
        schedule: A schedule's name, or phases.
        until: When each phase of a named schedule but the last ends.
        lr_schedule: The shape of the learning rates over each phase of a named schedule.
        rest: What becomes of the parameters that no layer group covers and of the layer groups that no phase covers:
            ``frozen``, ``trainable``, or ``None`` for an error.

    Raises:
        UserError: If anything does not fit; it names the phase or group and lists what exists.
    """
    patterns = group_patterns(own_layer_groups(module, layer_groups))
    names = list(patterns)
    if isinstance(schedule, str):
        phases = preset_phases(schedule, names, until, lr_schedule)
    else:
        phases = resolve_phases(schedule, names)
    thaw_order = dict.fromkeys(name for phase in phases for name in phase.groups)
    groups = resolve_layer_groups(module, patterns, list(thaw_order), rest)
    uncovered = set() if isinstance(schedule, str) else set(names) - thaw_order.keys()
    if uncovered and rest is None:
        raise UserError(
            f"no phase trains layer group {some_of(name for name in names if name in uncovered)}; "
            "add it to a phase, or set rest to 'frozen' or 'trainable'"
        )
    tied = [name for name in names if not groups[name].parameters]
    if tied and isinstance(schedule, str):
        phases = preset_phases(schedule, [name for name in names if name not in tied], until, lr_schedule)
    for number, phase in enumerate(phases, start=1):
        if set(phase.groups) <= set(tied):
            raise UserError(
                f"phase {number}: the weights of {', '.join(phase.groups)} are tied to a group that thaws before; "
                "drop the phase or join the two groups"
            )
    always = uncovered | (groups.keys() - names) if rest == "trainable" else set()
    return ResolvedSchedule(groups, phases, always, resolve_layer_groups(module, patterns, rest=rest))
