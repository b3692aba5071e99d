"""Decodes images of any kind to arrays of bytes: RGB, of one size, channels first."""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from lightning_transfer.data import cache
from lightning_transfer.data.left_out import LeftOut, OnError
from lightning_transfer.data.pictures.opening import Picture, values_of
from lightning_transfer.data.pictures.sequences import Pictures
from lightning_transfer.data.pictures.windows import FULL, Window, measure_window, to_bytes
from lightning_transfer.data.splits import evenly_spaced
from lightning_transfer.errors import UserError

_LAYOUT = 2  # version of the cached array's layout: another number builds the array again
_SAMPLE = 100  # images that are looked at before all are decoded


class ImageShape(NamedTuple):
    """What pictures are brought to; see :func:`to_array`."""

    image_size: int
    window: Window | None = None
    interpolation: str = "bicubic"


def decode(
    pictures: Pictures, shape: ImageShape, on_error: OnError, fingerprint: str
) -> tuple[Tensor, np.ndarray, list[LeftOut]]:
    """Decodes pictures once: the next call maps the cached array into memory.

    Args:
        pictures: The pictures.
        shape: What every picture is brought to.
        on_error: Whether pictures that cannot be read are refused, or left out.
        fingerprint: Text that changes when the data set does. Whether files have changed is known beyond it.

    Returns:
        uint8 [images, 3, image_size, image_size], memory-mapped; the row of each, int64 [images]; and what is left out.

    Raises:
        UserError: If one of the pictures cannot be read and such are refused, or none can be read.
    """
    files = _state_of(pictures.files)
    key = {"fingerprint": fingerprint, "files": files, **shape._asdict(), "layout": _LAYOUT}
    convert = partial(to_array, **shape._asdict())

    def build(folder: Path) -> None:
        kept: list[int] = []
        left_out: list[LeftOut] = []
        found = pictures.converted(range(len(pictures)), convert, on_error, left_out)
        row_shape = (3, shape.image_size, shape.image_size)
        with cache.rows_file(folder / "images.npy", len(pictures), row_shape, np.uint8) as write:
            # With disable=None, tqdm shows no bar if standard error is not a terminal.
            for row, array in tqdm(found, "Decoding images once", len(pictures), unit=" images", disable=None):
                write(array)
                kept.append(row)
        if not kept:
            raise UserError(f"none of {len(pictures)} images can be read: {left_out[0].name}: {left_out[0].reason}")
        cache.save(folder / "kept.npy", np.array(kept, np.int64))
        cache.save(folder / "left_out.npy", np.frombuffer(json.dumps(left_out).encode(), np.uint8))

    arrays = cache.load_or_build("images", key, build)
    left_out = [LeftOut(*entry) for entry in json.loads(arrays["left_out"].tobytes())]
    if left_out and on_error == "raise":  # left out by the run that built the entry
        missing = np.setdiff1d(np.arange(len(pictures)), arrays["kept"])
        list(pictures.converted(missing, convert, on_error))
    return torch.from_numpy(arrays["images"]), arrays["kept"], left_out


def decode_all(pictures: Pictures, shape: ImageShape, on_error: OnError) -> tuple[Tensor, np.ndarray, list[LeftOut]]:
    """Decodes pictures into memory; see :func:`decode`."""
    images = np.empty((len(pictures), 3, shape.image_size, shape.image_size), np.uint8)
    kept: list[int] = []
    left_out: list[LeftOut] = []
    convert = partial(to_array, **shape._asdict())
    for row, array in pictures.converted(range(len(pictures)), convert, on_error, left_out):
        images[len(kept)] = array
        kept.append(row)
    if not kept:
        raise UserError(f"none of {len(pictures)} images can be read: {left_out[0].name}: {left_out[0].reason}")
    return torch.from_numpy(images[: len(kept)]), np.array(kept, np.int64), left_out


def typical_size(pictures: Pictures, on_error: OnError = "raise") -> int:
    """Measures how large pictures are: the median of the shorter sides of a sample, in pixels.

    Args:
        pictures: The pictures, of which 100 are looked at, evenly spaced.
        on_error: Whether pictures that cannot be read are refused, or left out.

    Raises:
        UserError: If one of the pictures cannot be read and such are refused, or none can be read.
    """
    left_out: list[LeftOut] = []
    rows = evenly_spaced(len(pictures), _SAMPLE)
    sides = [side for _, side in pictures.converted(rows, _shorter_side, on_error, left_out)]
    if not sides:
        raise UserError(f"none of {len(rows)} images can be read: {left_out[0].name}: {left_out[0].reason}")
    return int(np.median(sides))


def typical_window(pictures: Pictures, on_error: OnError = "raise") -> Window | None:
    """Chooses the window of pictures with more than 8 bits; see :func:`measure_window`.

    Args:
        pictures: The training pictures, of which 100 are looked at, evenly spaced.
        on_error: Whether pictures that cannot be read are refused, or left out.

    Returns:
        The window, or None if none of the sample has more than 8 bits.
    """
    rows = evenly_spaced(len(pictures), _SAMPLE)
    values = (values for _, values in pictures.converted(rows, values_of, on_error))
    return measure_window(values for values in values if values is not None)


def to_array(
    picture: Picture, image_size: int, window: Window | None = None, interpolation: str = "bicubic"
) -> np.ndarray:
    """Converts a picture to RGB, and crops its largest centred square, which it resizes.

    Args:
        picture: An image in any mode, or numbers, [height, width] or [height, width, channels]. Transparency is
            dropped, and the camera's orientation is applied.
        image_size: Height and width of the result in pixels.
        window: The values that become black and white, in pictures with more than 8 bits. If not given, 0 and 65,535.
        interpolation: The way of resizing by Pillow's name in small letters.

    Returns:
        uint8 [3, image_size, image_size].

    Raises:
        ValueError: For real numbers without a window.
    """
    values = values_of(picture)
    if values is not None:
        if window is None and values.dtype.kind == "f":
            raise ValueError("it holds real numbers, and no range of them is known: give data.window")
        if window is None:
            rank_zero_warn(
                "an image has more than 8 bits, which none of the sampled training images had: its values 0 and 65535"
                " become black and white, unless data.window says otherwise"
            )
        picture = to_bytes(values, window or FULL)
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture.squeeze(2) if picture.shape[2:] == (1,) else picture)
    image = ImageOps.exif_transpose(picture).convert("RGB")
    if image.size != (image_size, image_size):
        image = ImageOps.fit(image, (image_size, image_size), method=Image.Resampling[interpolation.upper()])
    return np.asarray(image).transpose(2, 0, 1)


def _shorter_side(picture: Picture) -> int:
    sides: tuple[int, ...] = picture.shape[:2] if isinstance(picture, np.ndarray) else picture.size
    return min(sides)


def _state_of(files: Sequence[Path | None]) -> str | None:
    """Hashes what the file system says of files: also of one that was replaced with its time stamp kept."""
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        state = ""
        if file is not None:
            with contextlib.suppress(OSError):  # none, for a link that leads nowhere
                facts = file.stat()
                state = f"{facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns} {facts.st_ino}"
        digest.update(f"{file} {state}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
