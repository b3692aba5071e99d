"""Makes two random views of each image of a batch, on the device of the batch, to learn from without labels."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_transfer.data.augment import uniform_rows
from lightning_transfer.errors import UserError

_WIDEST = 4 / 3  # ratio of the sides of a crop; the narrowest is its inverse
_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey: ITU-R BT.601
_NO_BLUR = 1e-3  # pixels


@dataclass(frozen=True)
class Views:
    """Changes each training image at random, twice: what both views have in common is what can be learned.

    Each view is cropped and brought back to the size of the image, mirrored, changed in colour, and blurred. All draws
    are a hash of seed, epoch and row, as those of ``Augmentation``.

    Args:
        crop_area: The smallest and the largest share of an image that a view shows. The ratio of its sides is from 3:4
            to 4:3.
        horizontal_flip: Whether to mirror each view with probability one half.
        brightness: Largest change of the brightness, as a share of it.
        contrast: Largest change of the contrast, likewise.
        saturation: Largest change of the saturation, likewise.
        hue: Largest turn of the hue, as a share of the whole circle.
        jitter_probability: Probability that these four are changed.
        grey_probability: Probability that a view is grey.
        blur_probability: Probability that a view is blurred. Small images are usually not.
        blur_sigma: The smallest and the largest standard deviation of the blur, in pixels.

    Raises:
        UserError: For values out of range.

    Source:
        Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020; the values are those
        for CIFAR-10, but for the crop, which is that of Chen and He, Exploring Simple Siamese Representation Learning,
        2021. There the four changes of colour come in random order, and values are cut off after each. Here brightness,
        contrast, saturation and hue come in this order as one matrix for each view, as in NVIDIA's DALI, and values are
        cut off once. The hue turns about the grey axis, at equal luminance.
    """

    crop_area: tuple[float, float] = (0.2, 1.0)
    horizontal_flip: bool = True
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    jitter_probability: float = 0.8
    grey_probability: float = 0.2
    blur_probability: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        for name in ("crop_area", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high or (name == "crop_area" and high > 1):
                bound = " and at most 1" if name == "crop_area" else ""
                raise UserError(f"views.{name} is {[low, high]}: expected two rising numbers above 0{bound}")
        shares = ("brightness", "contrast", "saturation", "jitter_probability", "grey_probability", "blur_probability")
        for name, largest in {**dict.fromkeys(shares, 1.0), "hue": 0.5}.items():
            if not 0 <= (value := getattr(self, name)) <= largest:
                raise UserError(f"views.{name} is {value}: expected from 0 to {largest:g}")

    def __call__(self, images: Tensor, indices: Tensor, *, seed: int, epoch: int) -> Tensor:
        """Makes both views of each image.

        Args:
            images: uint8 or float [batch, 3, height, width], from 0 to 255.
            indices: int64 [batch], the row of each image. Its random draws depend on row, seed and epoch.
            seed: Another seed gives other draws.
            epoch: Another epoch gives other draws.

        Returns:
            float32 [batch, 2, 3, height, width], from 0 to 255.
        """
        count = len(_Draws._fields)
        rows = uniform_rows(indices, seed, epoch, count=2 * count).view(2, count, -1)
        draws = _Draws(*rows.permute(1, 2, 0).flatten(1))  # of both views of the first image, then of the second
        views = self._crop(images.float().repeat_interleave(2, 0), draws)
        views = self._change_colours(views, draws)
        if self.blur_probability:
            views = self._blur(views, draws)
        return views.view(-1, 2, *images.shape[1:])

    def _crop(self, views: Tensor, draws: "_Draws") -> Tensor:
        area = _between(draws.area, *self.crop_area)
        # Not so wide or so high that the crop would reach over the edge.
        ratio = torch.minimum(1 / area, torch.full_like(area, _WIDEST)) ** _between(draws.ratio, -1, 1)
        width, height = (area * ratio).sqrt(), (area / ratio).sqrt()
        mirror = torch.where(draws.flip < 0.5, -1.0, 1.0) if self.horizontal_flip else 1.0
        places = torch.zeros(len(views), 2, 3, device=views.device)  # where in the image each place of the view lies
        places[:, 0, 0], places[:, 0, 2] = width * mirror, (1 - width) * _between(draws.left, -1, 1)
        places[:, 1, 1], places[:, 1, 2] = height, (1 - height) * _between(draws.top, -1, 1)
        grid = F.affine_grid(places, list(views.shape), align_corners=False)
        return F.grid_sample(views, grid, padding_mode="border", align_corners=False)

    def _change_colours(self, views: Tensor, draws: "_Draws") -> Tensor:
        changes = (draws.jitter < self.jitter_probability).float()
        brightness, contrast, saturation = (
            1 + changes * strength * _between(draw, -1, 1)
            for strength, draw in (
                (self.brightness, draws.brightness),
                (self.contrast, draws.contrast),
                (self.saturation, draws.saturation),
            )
        )
        turn = 2 * math.pi * changes * self.hue * _between(draws.hue, -1, 1)
        saturation = saturation * (draws.grey >= self.grey_probability)
        to_grey, chroma, quarter_turn = _colour_matrices(views.device)
        turned = turn.cos()[:, None, None] * chroma + turn.sin()[:, None, None] * quarter_turn
        matrix = to_grey + saturation[:, None, None] * turned
        mean = brightness * (views.mean((2, 3)) @ to_grey[0])  # the mean luminance of each view
        shift = ((1 - contrast) * mean)[:, None, None]
        changed = torch.baddbmm(shift, (contrast * brightness)[:, None, None] * matrix, views.flatten(2))
        return changed.view_as(views).clamp_(0, 255)

    def _blur(self, views: Tensor, draws: "_Draws") -> Tensor:
        sigma = _between(draws.sigma, *self.blur_sigma)
        sigma = torch.where(draws.blur < self.blur_probability, sigma, _NO_BLUR)
        rows, columns = (_gaussian(size, sigma)[:, None] for size in views.shape[2:])
        return rows @ views @ columns.mT


class _Draws(NamedTuple):
    """Numbers in [0, 1), float32 [views] each."""

    area: Tensor
    ratio: Tensor
    top: Tensor
    left: Tensor
    flip: Tensor
    jitter: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    grey: Tensor
    blur: Tensor
    sigma: Tensor


def _between(draw: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * draw


def _gaussian(size: int, sigma: Tensor) -> Tensor:
    """Makes matrices that blur along an axis, float32 [views, size, size]; at the edge the weights inside count."""
    places = torch.arange(size, device=sigma.device)
    squares = (places[:, None] - places) ** 2
    return (-squares / (2 * sigma[:, None, None] ** 2)).softmax(2)


@lru_cache
def _colour_matrices(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Makes what a change of colour consists of, float32 [3, 3] each, for red, green and blue.

    Returns:
        What makes a colour grey, what is left of it without its grey, and the latter turned by a quarter about the grey
        axis. YIQ is luminance and two axes of colour.
    """
    grey = torch.tensor(_LUMA).expand(3, 3)
    yiq = torch.tensor([_LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)], dtype=torch.float64)
    turn = torch.tensor([[0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)
    quarter_turn = (yiq.inverse() @ turn @ yiq).float()
    return grey.to(device), (torch.eye(3) - grey).to(device), quarter_turn.to(device)
