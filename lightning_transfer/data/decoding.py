"""Decodes images of any kind to arrays of bytes: RGB, of one size, channels first."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from lightning_transfer.data import cache
from lightning_transfer.data.splits import evenly_spaced
from lightning_transfer.errors import UserError

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_LAYOUT = 1  # version of the cached array's layout: another number builds the array again


def decode_column(dataset: datasets.Dataset, column: str, image_size: int, interpolation: str = "bicubic") -> Tensor:
    """Decodes a column of images, once: the next call maps the cached array into memory.

    Args:
        dataset: A split with the column.
        column: The name of the image column.
        image_size: Height and width to bring every image to, in pixels.
        interpolation: The way of resizing, see :func:`to_array`.

    Returns:
        uint8 [rows, 3, image_size, image_size], memory-mapped.

    Raises:
        UserError: If the column does not hold images, or one of them is missing or cannot be decoded.
    """
    _require_images(dataset, column)
    key = {"fingerprint": dataset._fingerprint, "column": column, "image_size": image_size, "layout": _LAYOUT}
    key |= {} if interpolation == "bicubic" else {"interpolation": interpolation}

    def build(folder: Path) -> None:
        shape = (len(dataset), 3, image_size, image_size)
        images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
        convert = partial(to_array, image_size=image_size, interpolation=interpolation)
        arrays = _decode_rows(dataset, column, range(len(dataset)), convert)
        # With disable=None, tqdm shows no bar if standard error is not a terminal.
        for row, array in enumerate(tqdm(arrays, "Decoding images once", len(dataset), unit=" images", disable=None)):
            images[row] = array
        images.flush()

    return torch.from_numpy(cache.load_or_build("images", key, build)["images"])


def typical_size(dataset: datasets.Dataset, column: str, sample: int = 100) -> int:
    """Measures how large the images of a column are: the median of the shorter sides of a sample, in pixels.

    Args:
        dataset: A split with the column.
        column: The name of the image column.
        sample: Number of images to look at, evenly spaced over the split.

    Raises:
        UserError: If the column does not hold images, or one of them is missing or cannot be decoded.
    """
    _require_images(dataset, column)
    rows = evenly_spaced(len(dataset), sample)
    return int(np.median([*_decode_rows(dataset, column, rows, lambda image: min(image.size))]))


def decode_folder(folder: str, image_size: int, interpolation: str = "bicubic") -> tuple[list[str], Tensor]:
    """Decodes the images of a folder and of the folders below it, in the order of their names.

    Args:
        folder: Folder of the images.
        image_size: Height and width to bring every image to, in pixels.
        interpolation: The way of resizing, see :func:`to_array`.

    Returns:
        The files' paths relative to the folder, and uint8 [files, 3, image_size, image_size].

    Raises:
        UserError: For a missing folder, one without images, and an image that cannot be decoded.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"folder {folder!r} does not exist: expected a folder of images")
    files = sorted(file for file in root.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise UserError(f"folder {folder!r} has no images: expected files named {', '.join(sorted(IMAGE_SUFFIXES))}")
    return [str(file.relative_to(root)) for file in files], torch.from_numpy(
        np.stack([_decode_file(file, image_size, interpolation) for file in files])
    )


def to_array(image: Image.Image, image_size: int, interpolation: str = "bicubic") -> np.ndarray:
    """Converts an image to RGB, and crops its largest centred square, which it resizes.

    Args:
        image: An image in any mode of whole numbers; those of 32 bits are clipped to 0 to 65,535. Transparency
            is dropped, and the camera's orientation is applied.
        image_size: Height and width of the result in pixels.
        interpolation: The way of resizing by Pillow's name in small letters.

    Returns:
        uint8 [3, image_size, image_size].

    Raises:
        UserError: For an image of real numbers.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise UserError("it holds real numbers, of a range of its own: save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 or 32 bits, which convert("RGB") would clip instead of scale
        image = Image.fromarray((np.asarray(image).clip(0, 0xFFFF) >> 8).astype(np.uint8))
    image = image.convert("RGB")
    if image.size != (image_size, image_size):
        image = ImageOps.fit(image, (image_size, image_size), method=Image.Resampling[interpolation.upper()])
    return np.asarray(image).transpose(2, 0, 1)


def _require_images(dataset: datasets.Dataset, column: str) -> None:
    if not isinstance(dataset.features[column], datasets.Image):
        raise UserError(f"column {column!r} holds {dataset.features[column]}, not images: name another image_column")


def _decode_file(file: Path, image_size: int, interpolation: str) -> np.ndarray:
    with _refusing_damage(f"{file} cannot be decoded as an image"), Image.open(file) as image:
        return to_array(image, image_size, interpolation)


def _decode_rows(
    dataset: datasets.Dataset, column: str, rows: Sequence[int] | np.ndarray, convert: Callable[[Image.Image], Any]
) -> Iterator[Any]:
    images = iter(dataset.select_columns(column).select(rows))
    for row in rows:
        with _refusing_damage(f"the image in row {row} of column {column!r} cannot be decoded"):
            image = next(images)[column]
            if image is None:
                raise ValueError("there is none, leave the row out")
            yield convert(image)


@contextmanager
def _refusing_damage(message: str) -> Iterator[None]:
    try:
        yield
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # PIL raises these for damage
        raise UserError(f"{message}: {error}") from error
