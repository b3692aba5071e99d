"""Finds images that look the same, by hashes of what is seen in them: scaled, saved again, a little brighter."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

_SIDE = 32  # pixels that an image is reduced to
_KEPT = 8  # lowest frequencies in each direction, 64 in all: a bit for each
_BLOCK = 1 << 24  # pairs that are compared at once
_IMAGES = 4096  # that are hashed at once


class NearDuplicates(NamedTuple):
    """Images that look like one of another set.

    Attributes:
        rows: int64 [found], the images.
        others: int64 [found], for each the first of the other set that it looks like.
    """

    rows: np.ndarray
    others: np.ndarray


def find_near_duplicates(images: Tensor, others: Tensor, bits: int) -> NearDuplicates:
    """Finds the images whose perceptual hash differs in a few bits at most from that of an image of another set.

    Args:
        images: uint8 [rows, 3, height, width].
        others: The other set, likewise.
        bits: Number of the 64 bits that may differ.
    """
    hashes, of_others = perceptual_hashes(images), perceptual_hashes(others)
    rows, places = [], []
    step = max(1, _BLOCK // len(of_others))
    for start in range(0, len(hashes), step):
        near = np.bitwise_count(hashes[start : start + step, None] ^ of_others) <= bits
        found = np.flatnonzero(near.any(1))
        rows.append(found + start)
        places.append(near[found].argmax(1))
    return NearDuplicates(np.concatenate(rows), np.concatenate(places))


def perceptual_hashes(images: Tensor) -> np.ndarray:
    """Computes a hash of each image: which of its lowest frequencies are above the median of them.

    Args:
        images: uint8 [rows, 3, height, width].

    Returns:
        uint64 [rows].

    Source: Zauner, 2010, "Implementation and benchmarking of perceptual image hash functions" (pHash).
    """
    step = torch.arange(_SIDE)
    cosines = torch.cos(math.pi / _SIDE * (step + 0.5) * torch.arange(_KEPT).unsqueeze(1))
    found = []
    for some in torch.split(images, _IMAGES):
        grey = nn.functional.interpolate(some.float().mean(1, keepdim=True), (_SIDE, _SIDE), mode="area").squeeze(1)
        # In whole numbers, so that an image of one colour has none of the frequencies, and not their rounding errors.
        frequencies = (cosines @ grey @ cosines.T).round().flatten(1)
        bits = frequencies > frequencies[:, 1:].median(1, keepdim=True).values
        found.append(np.packbits(bits.numpy(), axis=1).view(np.uint64)[:, 0])
    return np.concatenate(found)
