"""Writes named schedules out as phases, matches phases with layer groups, and says what each phase trains."""

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import some_of
from lightning_transfer.transfer.schedule import LearningRateSchedule, Phase, Until


def preset_phases(
    schedule: str, names: Sequence[str], until: Until, lr_schedule: LearningRateSchedule = "constant"
) -> list[Phase]:
    """Writes a named schedule out as phases.

    Args:
        schedule: ``linear_probe`` trains the last group, the head. ``full`` trains everything. ``gradual`` thaws from
            the head down, one group a phase. ``chain`` trains one group at a time, the head first and then from the
            input up. Its last phase trains everything.
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
    """Replaces patterns and places of layer groups in explicit phases by the groups that they name.

    Raises:
        UserError: If a group is unknown or a phase adds nothing. It names the phase, counted from 1.
    """
    resolved: list[Phase] = []
    for number, phase in enumerate(phases, start=1):
        groups: dict[str, None] = {}
        for pattern in phase.groups:
            found = _named(pattern, names)
            if not found:
                raise UserError(f"phase {number}: layer group {pattern!r} is not one of {some_of(names, limit=20)}")
            groups.update(dict.fromkeys(found))
        resolved.append(replace(phase, groups=list(groups)))
        if number > 1 and trainable_groups(resolved, number - 1) == trainable_groups(resolved, number - 2):
            raise UserError(f"phase {number} trains what the phase before it trains; add a group to it")
    return resolved


def _named(pattern: str | int, names: Sequence[str]) -> list[str]:
    """Returns the layer groups of a name, a pattern, or a place: 0 is the first from the input, -1 the head."""
    if isinstance(pattern, int):
        return [names[pattern]] if -len(names) <= pattern < len(names) else []
    return [pattern] if pattern in names else [name for name in names if fnmatchcase(name, pattern)]


def trainable_groups(phases: Sequence[Phase], index: int) -> set[str]:
    """Returns the layer groups that phase ``index``, counted from 0, trains."""
    groups: set[str] = set()
    for phase in phases[: index + 1]:
        groups = {str(name) for name in phase.groups} | (set() if phase.only else groups)
    return groups
