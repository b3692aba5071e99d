"""Augments whole batches, on the device of the batch, with randomness per example.

The draws for an example are a hash of (seed, epoch, row). They are the same on any device, in any batch, on any number
of ranks and after a resume. There is no generator whose state could be lost.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_transfer.errors import UserError


@dataclass(frozen=True)
class Augmentation:
    """Moves and mirrors training images at random, and cuts holes into them.

    Args:
        crop_padding: Pixels added on each side before a random crop of the original size.
        padding: Content of the added pixels: ``zeros``, or the ``reflection`` of the image in its edge.
        horizontal_flip: Whether to mirror each image with probability one half. ``alternating`` mirrors each image in
            every other epoch, a random half of the images in the first. So two epochs together show each image in
            both ways.
        cutout: Side in pixels of a square at a random place that is filled with the image's mean colour; 0 for none.

    Raises:
        UserError: For negative sizes.

    Source:
        Alternating flip: Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024. Cutout: DeVries and Taylor,
        Improved Regularization of Convolutional Neural Networks with Cutout, 2017; they use the data set's mean, and
        their squares may reach over the edge.
    """

    crop_padding: int = 0
    padding: Literal["zeros", "reflection"] = "zeros"
    horizontal_flip: bool | Literal["alternating"] = False
    cutout: int = 0

    def __post_init__(self) -> None:
        for name, value in {"crop_padding": self.crop_padding, "cutout": self.cutout}.items():
            if value < 0:
                raise UserError(f"augmentation.{name} is {value}: expected 0 or more pixels")

    def __call__(self, images: Tensor, indices: Tensor, *, seed: int, epoch: int, total: int | None = None) -> Tensor:
        """Augments a batch.

        Args:
            images: uint8 or float [batch, channels, height, width].
            indices: int64 [batch], the row of each image. Its random draws depend on row, seed and epoch.
            seed: Another seed gives other draws.
            epoch: Another epoch gives other draws.
            total: Number of rows. If given, the draws of an epoch are made at once.

        Returns:
            A tensor like ``images``.

        Raises:
            UserError: For a reflection or a hole that is too large for the images.
        """
        largest = min(images.shape[2:])
        if self.cutout > largest or (self.crop_padding >= largest and self.padding == "reflection"):
            name, value = ("cutout", self.cutout) if self.cutout > largest else ("crop_padding", self.crop_padding)
            raise UserError(f"augmentation.{name} is {value}: too much for images of {largest} pixels")
        draw = partial(uniform, indices, seed, total=total)
        if self.crop_padding or self.horizontal_flip:
            images = self._crop_and_flip(images, draw, epoch)
        return self._cut_out(images, draw, epoch) if self.cutout else images

    def _crop_and_flip(self, images: Tensor, draw: Callable[..., Tensor], epoch: int) -> Tensor:
        batch, channels, height, width = images.shape
        rows = torch.arange(height, device=images.device).expand(batch, -1)
        columns = torch.arange(width, device=images.device).expand(batch, -1)
        if self.horizontal_flip:
            alternating = self.horizontal_flip == "alternating"
            flip = draw(0 if alternating else epoch, 0) < 0.5
            if alternating and epoch % 2:
                flip = ~flip
            columns = torch.where(flip[:, None], width - 1 - columns, columns)
        if self.crop_padding:
            shifts = 2 * self.crop_padding + 1
            rows = rows + (draw(epoch, 1) * shifts).long()[:, None]
            columns = columns + (draw(epoch, 2) * shifts).long()[:, None]
            if self.padding == "zeros":
                images = F.pad(images, (self.crop_padding,) * 4)
            else:
                rows, columns = (
                    _reflect(places - self.crop_padding, size) for places, size in ((rows, height), (columns, width))
                )
        # One gather over flattened pixels crops and flips. It is 1.5 times as fast as windows, 4 times as 4-d indexing.
        pixels = (rows[:, :, None] * images.shape[3] + columns[:, None, :]).reshape(batch, 1, -1)
        return images.flatten(2).gather(2, pixels.expand(-1, channels, -1)).view(batch, channels, height, width)

    def _cut_out(self, images: Tensor, draw: Callable[..., Tensor], epoch: int) -> Tensor:
        inside = []
        for number, size in ((3, images.shape[2]), (4, images.shape[3])):
            start = (draw(epoch, number) * (size - self.cutout + 1)).long()[:, None]
            places = torch.arange(size, device=images.device)
            inside.append((places >= start) & (places < start + self.cutout))
        hole = (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
        colour = images.mean((2, 3), keepdim=True, dtype=torch.float32)
        colour = (colour if images.is_floating_point() else colour.round()).to(images.dtype)
        return torch.where(hole, colour, images)


def _reflect(places: Tensor, size: int) -> Tensor:
    """Reflects places that lie up to ``size - 1`` beyond either edge back inside."""
    return size - 1 - (size - 1 - places.abs()).abs()


def uniform(indices: Tensor, *salts: int, total: int | None = None) -> Tensor:
    """Draws a number in [0, 1) for each index, as a pure function of the index and the salts.

    Source: the 32-bit finaliser of MurmurHash3 (Appleby, 2011), run once for each salt.

    Args:
        indices: int64 [batch].
        salts: Seed, epoch, number of the draw.
        total: Number of indices, counted from 0. If given, the numbers of all indices are computed once and kept. A
            batch then takes one operation instead of forty, which matters on an accelerator and in small batches.

    Returns:
        float32 [batch].
    """
    if total is None:
        return _hash(indices, *salts)
    return _kept(total, indices.device, *salts)[indices]


def uniform_rows(indices: Tensor, *salts: int, count: int) -> Tensor:
    """Draws several numbers in [0, 1) for each index at once: row n is what :func:`uniform` draws with n as last salt.

    Args:
        indices: int64 [batch].
        salts: Seed, epoch.
        count: Number of draws for each index.

    Returns:
        float32 [count, batch].
    """
    return _hash(indices, *salts, torch.arange(count, device=indices.device)[:, None])


@lru_cache(maxsize=16)  # enough for one epoch, which has fewer numbered draws than that
def _kept(total: int, device: torch.device, *salts: int) -> Tensor:
    return _hash(torch.arange(total, device=device), *salts)


def _hash(indices: Tensor, *salts: int | Tensor) -> Tensor:
    bits = indices
    for salt in salts:
        for word in [salt] if isinstance(salt, Tensor) else _words(salt):
            bits = _mix((bits + (word * 0x9E3779B9 & 0xFFFFFFFF)) & 0xFFFFFFFF)
    return (bits >> 8).float() / (1 << 24)  # the 24 bits that a float32 holds exactly


def _words(number: int) -> list[int]:
    """Divides a number into parts of 32 bits: the seed of a private training has four."""
    return [number >> 32 * place & 0xFFFFFFFF for place in range(max(1, (number.bit_length() + 31) // 32))]


def _mix(bits: Tensor) -> Tensor:
    bits = bits ^ (bits >> 16)
    bits = (bits * 0x85EBCA6B) & 0xFFFFFFFF
    bits = bits ^ (bits >> 13)
    bits = (bits * 0xC2B2AE35) & 0xFFFFFFFF
    return bits ^ (bits >> 16)
