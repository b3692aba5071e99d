"""Takes pictures that a program gives: paths, images of Pillow and arrays."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_transfer.data.pictures.opening import Source
from lightning_transfer.data.pictures.sequences import Pictures
from lightning_transfer.data.pictures.windows import Window, to_bytes


class GivenPictures(Pictures):
    """Pictures that a program gives, each with its path for a name, or its place among them.

    Args:
        pictures: Paths, contents of files, images of Pillow, and arrays of numbers or truth values, [height, width] or
            [height, width, channels] with up to 4 channels. Without a window, numbers are uint8, or real ones from 0 to
            1.
        window: The values that become black and white, where the training pictures had more than 8 bits.
    """

    way_out = "give another one"

    def __init__(self, pictures: Sequence[object], window: Window | None) -> None:
        self._pictures, self._window = pictures, window
        self.names = [
            os.fspath(given) if isinstance(given, str | os.PathLike) else row for row, given in enumerate(pictures)
        ]
        self.files = []

    def sources(self, rows: Sequence[int] | np.ndarray) -> Iterator[Source | Exception]:
        """Gives the pictures, or why one is none."""
        return (self._source(self._pictures[row]) for row in rows)

    def place_of(self, row: int) -> str:
        """Gives the path, or the place."""
        name = self.names[row]
        return f"example {name}" if isinstance(name, int) else name

    def _source(self, given: object) -> Source | Exception:
        if isinstance(given, str | os.PathLike):
            return Path(given).expanduser()
        if isinstance(given, Image.Image | bytes):
            return given
        if isinstance(given, list | tuple) or not hasattr(given, "__array__"):
            kind = type(given).__name__
            return TypeError(f"it is {kind}: expected a path, bytes of a file, an image of Pillow or an array")
        return _in_bytes(np.asarray(given)) if self._window is None else np.asarray(given)


def _in_bytes(array: np.ndarray) -> np.ndarray | Exception:
    """Brings real numbers from 0 to 1 into bytes, where no training picture says what numbers mean."""
    if array.dtype in (np.uint8, np.bool_):
        return array
    if array.dtype.kind != "f":
        return TypeError(f"it is an array of {array.dtype}: expected uint8, or real numbers from 0 to 1")
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        return ValueError(f"its numbers reach from {array.min():g} to {array.max():g}: expected 0 to 1, or uint8")
    return to_bytes(array, (0.0, 1.0))
