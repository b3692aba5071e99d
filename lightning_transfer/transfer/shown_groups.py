"""Finds the layer groups that the dashboards show, for any network and any callback that freezes it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import lightning as L
from torch import nn

from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import REST, LayerGroup, resolve_layer_groups

if TYPE_CHECKING:
    from lightning_transfer.transfer.unfreezing import ProgressiveUnfreezing


def unfreezing_of(trainer: L.Trainer) -> "ProgressiveUnfreezing | None":
    """Finds the callback that thaws layer groups; None where the trainer has none."""
    from lightning_transfer.transfer.unfreezing import ProgressiveUnfreezing  # late: its modules import this one

    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, ProgressiveUnfreezing)), None)


def shown_groups(trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, LayerGroup]:
    """Finds the layer groups to show, from input to head. Groups without parameters are left out.

    They are the groups of the unfreezing callback, else the module's own, else its direct children.

    Args:
        trainer: The trainer, after the start of ``fit``.
        pl_module: The module that trains.
    """
    unfreezing = unfreezing_of(trainer)
    groups = unfreezing.groups if unfreezing is not None else own_groups(pl_module)
    return {name: group for name, group in groups.items() if group.parameters}


def own_groups(pl_module: L.LightningModule) -> dict[str, LayerGroup]:
    """Finds the layer groups that a module names itself; else its direct children, or those of its only child."""
    patterns = getattr(pl_module, "layer_groups", None)
    if not patterns or not isinstance(patterns, list | tuple | Mapping):  # a user's may be something else
        patterns = _children(pl_module)
    groups = resolve_layer_groups(pl_module, patterns, rest="trainable") if patterns else {}
    if REST in groups and not groups[REST].parameters:
        del groups[REST]
    return groups


def _children(module: nn.Module) -> list[str]:
    """Lists the paths of the children with parameters; of an only child, which may wrap a network, those below it."""
    paths = {name: child for name, child in module.named_children() if any(True for _ in child.parameters())}
    if len(paths) == 1:
        [(name, child)] = paths.items()
        return [f"{name}.{below}" for below in _children(child)] or [name]
    return [*paths]


def head_of(groups: Mapping[str, LayerGroup]) -> LayerGroup | None:
    """Finds the head, the last layer group but for what is in none; None where there is none."""
    return next((groups[name] for name in reversed([*groups]) if name != REST), None)


def first_of_head(groups: Mapping[str, LayerGroup]) -> nn.Module | None:
    """Finds the module that is given the features: the first of the head with weights of its own; None without a head.

    Args:
        groups: The layer groups, from input to head.
    """
    head = head_of(groups)
    modules = head.modules if head is not None else []
    return next((module for module in modules if any(True for _ in module.parameters(recurse=False))), None)


def head_above_layers(trainer: L.Trainer, pl_module: L.LightningModule) -> LayerGroup:
    """Finds the head of a network that has other layers below it.

    Args:
        trainer: The trainer, after the start of ``fit``.
        pl_module: The module that trains.

    Raises:
        UserError: If the head is all there is: nothing below it could be kept near its start.
    """
    groups = shown_groups(trainer, pl_module)
    head = head_of(groups)
    if head is None or len(groups) == 1:
        raise UserError(
            f"the layer groups of {type(pl_module).__name__} are {', '.join(groups) or 'none'}: expected a head and"
            " others below it; give the network layer_groups, from input to head"
        )
    return head


def names_below_head(trainer: L.Trainer, pl_module: L.LightningModule) -> dict[int, str]:
    """Finds the parameters of all layers but the head, the last layer group: identity -> name.

    Args:
        trainer: The trainer, after the start of ``fit``.
        pl_module: The module that trains.

    Raises:
        UserError: If there are none.
    """
    head = head_above_layers(trainer, pl_module)
    below = [group.parameters for group in shown_groups(trainer, pl_module).values() if group.name != head.name]
    return {id(parameter): name for parameters in below for name, parameter in parameters.items()}


def trainable_names(groups: dict[str, LayerGroup]) -> tuple[str, ...]:
    """Names the groups that train now. A layer group freezes as a whole, so its first parameter is enough to tell."""
    return tuple(name for name, group in groups.items() if next(iter(group.parameters.values())).requires_grad)
