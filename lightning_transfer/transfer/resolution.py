"""Meets a schedule with a module: which parameters each phase trains, and whether the optimizer holds them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import (
    REST,
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
    preset_phases,
    resolve_phases,
    trainable_groups,
)


@dataclass
class ResolvedSchedule:
    """A schedule on one module.

    Attributes:
        groups: Layer group name -> its parameters and submodules, from input to head, then ``rest``.
        phases: The phases, with the names of layer groups in place of patterns.
        always_trainable: The groups that every phase trains.
    """

    groups: dict[str, LayerGroup]
    phases: list[Phase]
    always_trainable: set[str]

    def trainable(self, index: int) -> list[str]:
        """Return the layer groups that phase ``index``, from 0, trains, from input to head."""
        names = trainable_groups(self.phases, index) | self.always_trainable
        return [name for name, group in self.groups.items() if name in names and group.parameters]

    def parameters(self, names: Sequence[str]) -> dict[str, nn.Parameter]:
        """Return the parameters of some layer groups by their full names."""
        return {key: parameter for name in names for key, parameter in self.groups[name].parameters.items()}

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
                f"the optimizer does not hold {some_of(missing)}, which a phase trains; give it all parameters from the "
                "start (a frozen one costs nothing): self.parameters() or parameter_groups(self, ...)"
            )
        twice = [name for name, parameter in self.parameters(trained).items() if held[id(parameter)] > 1]
        if twice:
            raise UserError(f"the optimizers hold {some_of(twice)} more than once; list each parameter once")

    def decay_factors(self, optimizer: Optimizer, lr_decay: float) -> list[float]:
        """Return the factor of each of the optimizer's parameter groups for a learning rate that decays with depth.

        Raises:
            UserError: If a parameter group spans several layer groups, or the learning rates differ already.
        """
        names = [name for name in self.groups if name != REST]
        depths = {
            id(parameter): depth
            for depth, name in enumerate(reversed(names))
            for parameter in self.groups[name].parameters.values()
        }
        factors = []
        for group in optimizer.param_groups:
            found = {depths.get(id(parameter), 0) for parameter in group["params"]}
            if len(found) != 1:
                raise UserError(
                    f"lr_decay={lr_decay:g} needs one optimizer parameter group per layer group; build the optimizer "
                    "from parameter_groups(self, ...) in configure_optimizers"
                )
            factors.append(lr_decay ** -found.pop())
        if len({group.get("initial_lr", group["lr"]) for group in optimizer.param_groups}) > 1:
            raise UserError(
                f"lr_decay={lr_decay:g} on the callback, but the optimizer's groups have learning rates of their own "
                "already; drop one of the two (parameter_groups has its own lr_decay)"
            )
        return factors


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
    return ResolvedSchedule(groups, phases, always)
