"""Finds the linear layer that is a network's head, and puts another module in its place."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import group_patterns

Head = TypeVar("Head", bound=nn.Module)


def replace_head(
    network: nn.Module, build: Callable[[nn.Linear], Head], outputs: int | None = None, whose: str = ""
) -> Head:
    """Replaces the last linear layer of a network's last layer group. The layer groups keep their names.

    Args:
        network: The network, which is changed in place.
        build: Makes what takes the layer's place.
        outputs: Number of outputs that the layer must have, if that is known.
        whose: What these outputs are of, for the error: ``, those of all tasks together``.

    Returns:
        The new module.

    Raises:
        UserError: If the last layer group has no such layer, or several side by side.
    """
    if getattr(network, "has_several_heads", False):
        raise UserError(
            f"the head of {type(network).__name__} has several classifiers side by side: choose another model.network"
        )
    groups: Any = getattr(network, "layer_groups", None)
    paths = list(group_patterns(groups).values())[-1] if groups else [""]
    found = [
        path
        for path, module in network.named_modules()
        if isinstance(module, nn.Linear)
        and outputs in (None, module.out_features)
        and any(not start or path == start or path.startswith(f"{start}.") for start in paths)
    ]
    if not found:
        of = "" if outputs is None else f" of {outputs} outputs"
        raise UserError(
            f"the head of {type(network).__name__} has no linear layer{of}{whose}: choose another model.network"
        )
    head = build(network.get_submodule(found[-1]))  # type: ignore[arg-type]
    parent, _, name = found[-1].rpartition(".")
    setattr(network.get_submodule(parent), name, head)
    return head


def outputs_of_head(network: nn.Module, head: nn.Module, *inputs: Tensor) -> Tensor:
    """Computes the outputs of a network in training, and checks that they are those of its new head.

    Args:
        network: The network.
        head: What has taken the place of its last linear layer.
        inputs: The arguments of the network's ``forward``.

    Raises:
        UserError: If the network computes something after its head, which is not for other outputs than before.
    """
    given: list[Tensor] = []
    hook = head.register_forward_hook(lambda module, inputs, outputs: given.append(outputs))
    line = (
        f"{type(network).__name__} computes something after the linear layer that is defined last: expected that layer"
        " to be its end, in the order of definition too"
    )
    try:
        outputs: Tensor = network(*inputs)
    except RuntimeError as error:
        if not given:
            raise
        raise UserError(line) from error
    finally:
        hook.remove()
    if not given or not torch.equal(outputs, given[-1]):
        raise UserError(line)
    return outputs
