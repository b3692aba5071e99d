"""Lays out pictures with captions as one picture."""

from collections.abc import Sequence

import numpy as np

from lightning_transfer.report.drawing import PixelCanvas, shortened
from lightning_transfer.report.palette import Color

_PICTURE = 96  # side of a picture in a grid, in units
_CAPTION = 16


def picture_grid(
    pictures: Sequence[np.ndarray], captions: Sequence[Sequence[tuple[str, Color]]], columns: int = 8
) -> np.ndarray:
    """Lays out pictures in a grid, with lines of text below each.

    Args:
        pictures: uint8 [height, width, 3] each.
        captions: Lines of text of each picture; a line is a text and the name of its colour.
        columns: Maximum number of pictures in a row.

    Returns:
        uint8 [height, width, 3].
    """
    columns = min(columns, len(pictures))
    lines = max(map(len, captions), default=0)
    cell_height = _PICTURE + 8 + _CAPTION * lines
    rows = -(-len(pictures) // columns)
    canvas = PixelCanvas(columns * (_PICTURE + 8) + 8, rows * cell_height + 8)
    for index, picture in enumerate(pictures):
        x, y = 8 + index % columns * (_PICTURE + 8), 8 + index // columns * cell_height
        canvas.picture(x, y, _PICTURE, picture)
        for line, (text, color) in enumerate(captions[index]):
            middle = y + _PICTURE + _CAPTION * (line + 0.5)
            canvas.text(x, middle, shortened(text, _PICTURE, 11), color, 11)
    return canvas.pixels()
