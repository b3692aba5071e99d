"""Finds the mean and standard deviation to normalise images by: those of pretrained weights, or of the data."""

from typing import Any

import torch
from torch import Tensor
from torchvision import models

from lightning_transfer.data.splits import evenly_spaced
from lightning_transfer.errors import UserError, did_you_mean


def normalisation_of_weights(name: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Looks up the normalisation of the images on which torchvision's weights were trained.

    Args:
        name: Name of the weights, for example ResNet18_Weights.IMAGENET1K_V1.

    Returns:
        Mean and standard deviation of each channel, for pixels from 0 to 1.

    Raises:
        UserError: If there are no such weights, or their images were not normalised.
    """
    transforms = _transforms_of_weights(name)
    if transforms is None:
        networks = models.list_models(module=models)
        known = [str(weights) for network in networks for weights in models.get_model_weights(network)]
        hint = did_you_mean(name, known, "expected one like ResNet18_Weights.IMAGENET1K_V1")
        raise UserError(f"data.normalise_as: torchvision has no weights {name!r}: {hint}")
    return tuple(transforms.mean), tuple(transforms.std)


def is_name_of_weights(name: str) -> bool:
    """Says whether torchvision has weights by this name whose images were normalised."""
    return _transforms_of_weights(name) is not None


def _transforms_of_weights(name: str) -> Any | None:
    try:
        transforms = models.get_weight(name).transforms()
    except (KeyError, TypeError, ValueError):  # a TypeError means that the name is something else in torchvision.models
        return None
    return transforms if hasattr(transforms, "mean") else None


def channel_statistics(images: Tensor, sample: int = 5000) -> tuple[list[float], list[float]]:
    """Computes the mean and the standard deviation of each channel, for pixels from 0 to 1.

    Args:
        images: uint8 [rows, 3, height, width].
        sample: Number of images to look at, evenly spaced over all.
    """
    chosen = images[torch.from_numpy(evenly_spaced(len(images), sample))]
    # Counting the 256 values is exact, and needs no copy of the images as floats.
    counts = torch.stack([torch.bincount(chosen[:, channel].flatten(), minlength=256) for channel in range(3)]).double()
    values, shares = torch.arange(256) / 255.0, counts / counts.sum(1, keepdim=True)
    mean = shares @ values.double()
    variance = (shares * (values - mean.unsqueeze(1)) ** 2).sum(1)
    return mean.tolist(), variance.sqrt().clamp_min(1 / 255).tolist()
