"""Weights of the classes in the training loss, given or from the numbers of training examples."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_transfer.errors import UserError
from lightning_transfer.modules.losses import balanced_weights

ClassWeights = Literal["balanced"] | list[float]


def check_class_weights(given: ClassWeights | None, loss: nn.Module, num_classes: int) -> ClassWeights | None:
    """Checks weights before a training.

    Args:
        given: The option.
        loss: The loss, which weighs classes by a method ``weighted``; one of the user's may have it too.
        num_classes: The number of classes.

    Raises:
        UserError: For a loss that cannot weigh classes, and anything but a number from 0 for each class.
    """
    if given is None:
        return None
    if not hasattr(loss, "weighted"):
        raise UserError(
            f"model.class_weights is {given}: expected null with {type(loss).__name__}, a loss that weighs no classes"
        )
    if given == "balanced":
        return given
    if isinstance(given, str) or len(given) != num_classes or min(given) < 0 or not 0 < sum(given) < float("inf"):
        raise UserError(
            f"model.class_weights is {given}: expected balanced, or {num_classes} numbers from 0, one for each class"
        )
    return given


def weights_of_fit(given: ClassWeights | None, data: Any, device: torch.device) -> Tensor | None:
    """Computes the weights of a fit: float32 [classes], or None where all classes count alike.

    Args:
        given: The option.
        data: The data module, whose ``class_counts`` are the training examples of each class, int64 [classes].
        device: Where the weights are needed.

    Raises:
        UserError: For balanced weights of data that has no counts, or is balanced already by its sampling.
    """
    if given is None:
        return None
    if given != "balanced":
        return torch.tensor(given, dtype=torch.float32, device=device)
    counts = getattr(data, "class_counts", None)
    if counts is None:
        raise UserError(
            f"model.class_weights is balanced, and {type(data).__name__} has no class_counts: give a number for each"
            " class instead"
        )
    if getattr(data, "balanced_sampling", False):
        raise UserError(
            "model.class_weights is balanced, and data.balanced_sampling is on: expected one of them, as both together"
            " would count rare classes twice"
        )
    return balanced_weights(torch.as_tensor(counts)).to(device)
