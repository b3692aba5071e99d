"""Opens one picture: a file, its content, or an array of numbers."""

import io
import re
import struct
import unicodedata
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torchvision.io import ImageReadMode, decode_png

# Ghostscript would execute EPS, and the others are only recognised, not decoded.
_REFUSED_FORMATS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_DEEP_COLOURS = re.compile(";16[BLN]")  # in how Pillow names the layout of pixels; BGR;16 has 5 or 6 bits a colour
_FEWEST_SHADES = 16  # of a picture that has lost the lower half of its bits

# What Pillow's decoders raise for damaged content.
DAMAGE = (
    *(OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError, RuntimeError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)

Picture = Image.Image | np.ndarray
# A file or its content, nested lists of numbers, an array or an image; None where there is none.
Source = Path | bytes | list[Any] | np.ndarray | Image.Image | None


@cache
def formats() -> tuple[str, ...]:
    """Returns the formats that are decoded: those of Pillow, except one that would be executed."""
    Image.init()
    return tuple(name for name in Image.ID if name not in _REFUSED_FORMATS)


@cache
def suffixes() -> frozenset[str]:
    """Returns the suffixes of files in these formats, in lower case, such as ``.png``."""
    known = set(formats())
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)


def alike(name: str) -> str:
    """Returns what names have in common that differ in case, in the encoding of accents, or in leading zeros alone."""
    folded = unicodedata.normalize("NFC", name).casefold()
    stem, dot, suffix = folded.partition(".")
    return (stem.lstrip("0") or "0") + dot + suffix if stem.isascii() and stem.isdigit() else folded


@contextmanager
def opened(source: Source) -> Iterator[Picture]:
    """Opens a picture.

    Args:
        source: File, content or numbers; an image that is open stays so.

    Yields:
        The image, of which only the head has been read, or the numbers: [height, width] or [height, width, channels].

    Raises:
        ValueError: If there is none, or not a picture; see ``DAMAGE`` for the others.
    """
    if source is None:
        raise ValueError("there is none")
    if isinstance(source, Image.Image):
        yield source
        return
    if isinstance(source, list | np.ndarray):
        yield _as_rows_of_pixels(np.asarray(source))
        return
    if isinstance(source, Path) and source.exists() and not source.is_file():  # to read a pipe is to wait for ever
        raise ValueError("it is no ordinary file")
    if source == b"" or (isinstance(source, Path) and source.is_file() and not source.stat().st_size):
        raise ValueError("it is empty")
    try:
        image = Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=formats())
    except UnidentifiedImageError as error:  # its own message tells an address in memory
        raise ValueError("it has no known format of images, or a damaged head") from error
    except FileNotFoundError as error:
        raise FileNotFoundError("there is no such file") from error
    with image:
        yield image


def values_of(picture: Picture) -> np.ndarray | None:
    """Returns the numbers of a picture that has more than 8 bits; None for any other.

    Args:
        picture: An image whose pixels have not been read, or an array.

    Returns:
        [height, width] or [height, width, channels], turned as the camera says.

    Raises:
        ValueError: For 16 bits of colour in a format of which only the higher half can be read, with little in it.
    """
    if isinstance(picture, np.ndarray):
        return None if picture.dtype == np.uint8 else picture
    if picture.mode.startswith(("I", "F")):
        return np.asarray(ImageOps.exif_transpose(picture))
    if not isinstance(picture, ImageFile.ImageFile) or not _has_deep_colours(picture):
        return None
    if picture.format == "PNG":
        return _deep_colours(picture)
    if np.ptp(np.asarray(picture.convert("RGB")), axis=(0, 1)).max() < _FEWEST_SHADES:
        raise ValueError("of its 16 bits a colour the higher 8 can be read, which are nearly all the same: save PNG")
    return None


def _has_deep_colours(image: ImageFile.ImageFile) -> bool:
    if not image.tile:
        return False
    codec, _, _, arguments = image.tile[0]
    if codec == "ppm":  # the highest value
        return isinstance(arguments, tuple) and arguments[-1] > 255
    return _DEEP_COLOURS.search(str(arguments)) is not None


def _deep_colours(image: ImageFile.ImageFile) -> np.ndarray:
    """Reads the colours of a PNG of 16 bits, of which Pillow reads the higher half."""
    assert image.fp is not None
    place = image.fp.tell()
    image.fp.seek(0)
    content = image.fp.read()
    image.fp.seek(place)
    pixels = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    channels = decode_png(pixels, ImageReadMode.UNCHANGED).numpy()[: 1 if image.mode == "LA" else 3]
    with Image.open(io.BytesIO(content)) as again:  # that of the image itself would load it, with 8 bits
        exif = again.getexif()
    bands = [Image.fromarray(channel) for channel in channels]
    for band in bands:
        band.getexif().update(exif)
    return np.stack([np.asarray(ImageOps.exif_transpose(band)) for band in bands], axis=-1)


def _as_rows_of_pixels(array: np.ndarray) -> np.ndarray:
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if array.dtype.kind not in "iuf":
        raise ValueError("it holds something else than numbers")
    if array.ndim == 3 and array.shape[2] > 4 and array.shape[0] <= 4:
        array = np.moveaxis(array, 0, 2)  # channels first
    if array.size and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] <= 4)):
        return array
    raise ValueError(f"its numbers have the shape {list(array.shape)}: expected height, width and up to 4 channels")
