"""What stands in for modules that compute nothing, and for what would come of them."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

COMPUTED = object()  # stands for an output that is computed each time


def stream(arguments: Any, keywords: Any) -> Tensor | None:
    """Takes the first floating-point tensor that a module is given."""
    tensors = (leaf for leaf in tree_leaves((arguments, keywords)) if isinstance(leaf, Tensor))
    return next((tensor for tensor in tensors if tensor.is_floating_point()), None)


def without_numbers(tensor: Tensor) -> Tensor:
    """Keeps the shape, the dtype and the place in memory of each number."""
    return torch.empty_like(tensor, device="meta")


def shapes(output: Any) -> list[torch.Size]:
    """Lists the shapes of all tensors in an output."""
    return [leaf.shape for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def stand_in(forward: Any, outputs: list[Any], device: torch.device) -> Any:
    """Makes a ``forward`` that gives NaN in the shapes of known outputs, and computes any output beyond these."""
    waiting = iter(outputs)

    def give(*arguments: Any, **keywords: Any) -> Any:
        output = next(waiting, COMPUTED)
        if output is COMPUTED:
            return forward(*arguments, **keywords)
        return tree_map_only(Tensor, lambda tensor: torch.full_like(tensor, math.nan, device=device), output)

    return give


def features_at_once(features: Tensor) -> Any:
    """Makes a hook that puts features into what a module is given at its first call."""
    waiting = [features]

    def put(_: nn.Module, arguments: Any, keywords: Any) -> None:
        # In place, as gradient checkpointing gives the same tensor again to the backward pass.
        if waiting and (given := stream(arguments, keywords)) is not None:
            given.copy_(waiting.pop())

    return put
