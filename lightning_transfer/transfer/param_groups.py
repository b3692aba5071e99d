"""Builds one optimizer parameter group per layer group, with learning rates that decay away from the head."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import REST, LayerGroups, resolve_layer_groups

_MOST_DECAY = 1000.0  # beyond it, the groups below the head would not learn at all


def check_lr_decay(lr_decay: float) -> None:
    """Refuses a factor between neighbouring layer groups that is below 1 or above 1000.

    Raises:
        UserError: If it is.
    """
    if not 1 <= lr_decay <= _MOST_DECAY:
        raise UserError(
            f"lr_decay is {lr_decay:g}: expected 1 to {_MOST_DECAY:g}, the factor between neighbouring layer groups"
        )


def parameter_groups(
    module: nn.Module,
    layer_groups: LayerGroups | None = None,
    *,
    lr: float,
    lr_decay: float = 2.6,
    decay_norm_and_bias: bool = True,
    rest: Literal["frozen", "trainable"] | None = None,
) -> list[dict[str, Any]]:
    """Splits a module's parameters into one named optimizer group per layer group.

    All layer groups are listed, frozen or not. An optimizer skips a parameter whose grad is ``None``, so a frozen one
    costs nothing. Groups that never change suit every scheduler and checkpoint.

    Args:
        module: The module that the paths of the layer groups start from.
        layer_groups: From input to head: module paths or glob patterns, or a mapping from names to them. By default
            the module's own ``layer_groups``.
        lr: Learning rate of the last group, the head.
        lr_decay: Each group's learning rate is that of the next group towards the head, divided by this number. It is
            at least 1.
        decay_norm_and_bias: False exempts biases and one-dimensional parameters (the weights of norm layers) from
            weight decay. A layer group is then split in two, and the second is named ``<group>/no_decay``.
        rest: How to treat trainable parameters outside all layer groups. ``frozen`` leaves them out. ``trainable``
            adds them as the group ``rest`` with the head's learning rate. By default they are an error.

    Returns:
        Groups for any ``torch.optim`` optimizer, from input to head, with the keys ``params``, ``name``, ``lr`` and,
        where exempt, ``weight_decay``. Tied parameters are listed once, in the group nearest the head.

    Raises:
        UserError: If ``lr_decay`` is below 1 or above 1000, or the layer groups do not fit the module.

    Source:
        Discriminative fine-tuning and its 2.6: Howard and Ruder, Universal Language Model Fine-tuning for Text
        Classification, 2018.
    """
    check_lr_decay(lr_decay)
    groups = resolve_layer_groups(module, own_layer_groups(module, layer_groups), rest=rest)
    if rest == "frozen":
        del groups[REST]
    layers = [name for name in groups if name != REST]
    result: list[dict[str, Any]] = []
    for name, group in groups.items():
        depth = len(layers) - 1 - layers.index(name) if name in layers else 0
        decayed: list[nn.Parameter] = []
        exempt: list[nn.Parameter] = []
        for parameter_name, parameter in group.parameters.items():
            is_norm_or_bias = parameter.ndim <= 1 or parameter_name.endswith("bias")
            (exempt if is_norm_or_bias and not decay_norm_and_bias else decayed).append(parameter)
        options = {"lr": lr / lr_decay**depth}
        if decayed:
            result.append({"params": decayed, "name": name, **options})
        if exempt:
            result.append({"params": exempt, "name": f"{name}/no_decay", **options, "weight_decay": 0.0})
    return result


def build_optimizer(
    module: nn.Module,
    optimizer: Callable[[Iterable[Any]], Optimizer],
    layer_groups: LayerGroups | None = None,
    *,
    lr_decay: float = 1.0,
    decay_norm_and_bias: bool = True,
    rest: Literal["frozen", "trainable"] | None = None,
) -> Optimizer:
    """Builds an optimizer over ``parameter_groups``. Its factory holds the base learning rate.

    It must be called before the scheduler is built: schedulers remember the learning rates that they find.

    Args:
        module: The module that the paths of the layer groups start from.
        optimizer: Makes the optimizer from parameter groups, with its learning rate inside (jsonargparse's
            ``OptimizerCallable``, a ``functools.partial``).
        layer_groups: See ``parameter_groups``, as for the arguments below.
        lr_decay: The head has the optimizer's own learning rate. Each other group has that of the next group towards
            the head, divided by this number.
        decay_norm_and_bias: False exempts biases and one-dimensional parameters from weight decay.
        rest: How to treat trainable parameters outside all layer groups.

    Returns:
        The optimizer, with one named parameter group per layer group (two where weight decay is split).
    """
    groups = parameter_groups(
        module, layer_groups, lr=1.0, lr_decay=lr_decay, decay_norm_and_bias=decay_norm_and_bias, rest=rest
    )
    factors = [group.pop("lr") for group in groups]
    built = optimizer(groups)
    for group, factor in zip(built.param_groups, factors, strict=True):
        group["lr"] *= factor
    return built


def own_layer_groups(module: nn.Module, layer_groups: LayerGroups | None) -> LayerGroups:
    """Returns the layer groups that were given, or else those that the module names itself.

    Raises:
        UserError: If there are neither.
    """
    found = layer_groups if layer_groups is not None else getattr(module, "layer_groups", None)
    if found is None:
        network = getattr(module, "network", None)
        owner, prefix = (network, "network.") if isinstance(network, nn.Module) else (module, "")
        paths = [f"{prefix}{name}" for name, child in owner.named_children() if any(True for _ in child.parameters())]
        raise UserError(
            f"{type(owner).__name__} names no layer_groups: expected a list of module paths from input to head, for "
            f"example {paths}"
        )
    return found
