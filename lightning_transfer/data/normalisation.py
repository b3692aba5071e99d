"""Finds what to normalise images by, their size and interpolation: as pretrained weights have it, or the data."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision import models

from lightning_transfer.data.splits import evenly_spaced
from lightning_transfer.errors import UserError, did_you_mean, require_library
from lightning_transfer.files import in_mirror

TIMM_PREFIX = "timm/"


class Preprocessing(NamedTuple):
    """Says how images were prepared on which weights were trained.

    Attributes:
        mean: Mean of each channel, for pixels from 0 to 1.
        std: Standard deviation of each channel.
        image_size: Height and width in pixels; None where the weights do not say.
        interpolation: The way of resizing by Pillow's name in small letters; None where the weights do not say.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: int | None = None
    interpolation: str | None = None


def preprocessing_of_weights(name: str) -> Preprocessing:
    """Looks up how the images were prepared on which weights of torchvision or timm were trained.

    Args:
        name: Name of the weights, for example ResNet18_Weights.IMAGENET1K_V1 or timm/resnet18; or a folder that timm
            has saved, or its Hub id in a mirror.

    Raises:
        UserError: If there are no such weights, their images were not normalised, or timm is not installed.
    """
    found = _find(name)
    if found is None:
        networks = models.list_models(module=models)
        known = [str(weights) for network in networks for weights in models.get_model_weights(network)]
        hint = did_you_mean(name, known, "expected one like ResNet18_Weights.IMAGENET1K_V1")
        raise UserError(f"data.normalise_as: torchvision has no weights {name!r}: {hint}")
    return found


def is_name_of_weights(name: str) -> bool:
    """Says whether these are weights of torchvision or timm whose images were normalised."""
    return _find(name) is not None


def _find(name: str) -> Preprocessing | None:
    folder = in_mirror(name) or Path(name)
    if folder.is_dir():
        return _of_folder(folder)
    if name.startswith(TIMM_PREFIX):
        return _of_timm(name.removeprefix(TIMM_PREFIX))
    transforms = _transforms_of_weights(name)
    return None if transforms is None else Preprocessing(tuple(transforms.mean), tuple(transforms.std))


def _of_folder(folder: Path) -> Preprocessing | None:
    """Reads the numbers that timm saves beside its weights."""
    try:
        return _of_config(json.loads((folder / "config.json").read_text(encoding="utf-8"))["pretrained_cfg"])
    except (OSError, ValueError, KeyError, TypeError):  # a folder of something else
        return None


def _of_timm(name: str) -> Preprocessing | None:
    require_library("timm", f"{TIMM_PREFIX}{name}")
    import timm

    try:
        config: Any = timm.get_pretrained_cfg(name)
    except RuntimeError:  # for a network with other weights
        config = None
    return None if config is None else _of_config(vars(config))


def _of_config(config: Mapping[str, Any]) -> Preprocessing:
    mean, std = (tuple(map(float, config[key])) for key in ("mean", "std"))
    interpolation = str(config.get("interpolation", "")).lower()
    known = interpolation if interpolation.upper() in Image.Resampling.__members__ else None
    return Preprocessing(mean, std, int(config["input_size"][-1]), known)  # type: ignore[arg-type]


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
