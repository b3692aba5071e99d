"""Canvases that draw one figure twice: as pixels for TensorBoard, and as SVG for the report, in the reader's colours.

TensorBoard already installs Pillow, which has a scalable font of its own and draws a figure in a hundredth of a second.
"""

import base64
import io
import math
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import cycle, pairwise
from typing import Literal, Protocol

import numpy as np
from markupsafe import Markup
from PIL import Image, ImageColor, ImageDraw, ImageFont

from lightning_transfer.report.palette import COLORS, Color

Anchor = Literal["start", "middle", "end"]

_SCALE = 2  # pixels of a picture for each unit of a figure, so that it is sharp on a screen of high density


class Canvas(Protocol):
    """A surface that figures draw on. x points right and y points down, in units of a CSS pixel."""

    def rectangle(
        self, x: float, y: float, width: float, height: float, color: Color, opacity: float = 1, title: str = ""
    ) -> None:
        """Fills a rectangle; its title appears under the mouse."""

    def polygon(
        self, corners: Sequence[tuple[float, float]], color: Color, opacity: float = 1, title: str = ""
    ) -> None:
        """Fills a polygon; its title appears under the mouse."""

    def line(
        self,
        points: Sequence[tuple[float, float]],
        color: Color,
        width: float = 1,
        title: str = "",
        dashes: Sequence[float] = (),
    ) -> None:
        """Draws a line through points; its title appears under the mouse.

        Args:
            points: x and y of each point.
            color: Colour of the line.
            width: Width of the line in units.
            title: Text under the mouse.
            dashes: Lengths in units of what is drawn and what is left out, in turns; empty for a whole line.
        """

    def text(
        self, x: float, y: float, text: str, color: Color = "ink", size: float = 12, anchor: Anchor = "start"
    ) -> None:
        """Writes a line of text, vertically centred at y."""

    def heatmap(self, x: float, y: float, width: float, height: float, opacities: np.ndarray) -> None:
        """Fills a grid of cells with the accent colour; their opacities are float [rows, columns] from 0 to 1."""


class PixelCanvas:
    """Draws a picture in pixels on white.

    Args:
        width: Width in units; each unit is two pixels.
        height: Height in units.
    """

    def __init__(self, width: float, height: float) -> None:
        self.image = Image.new("RGB", (round(width * _SCALE), round(height * _SCALE)), "white")
        self._draw = ImageDraw.Draw(self.image)

    def rectangle(
        self, x: float, y: float, width: float, height: float, color: Color, opacity: float = 1, title: str = ""
    ) -> None:
        """Fills a rectangle."""
        corners = [round(value * _SCALE) for value in (x, y, x + width, y + height)]
        right, bottom = max(corners[0], corners[2] - 1), max(corners[1], corners[3] - 1)
        self._draw.rectangle((corners[0], corners[1], right, bottom), fill=_on_white(color, opacity))

    def polygon(
        self, corners: Sequence[tuple[float, float]], color: Color, opacity: float = 1, title: str = ""
    ) -> None:
        """Fills a polygon."""
        self._draw.polygon([(x * _SCALE, y * _SCALE) for x, y in corners], fill=_on_white(color, opacity))

    def line(
        self,
        points: Sequence[tuple[float, float]],
        color: Color,
        width: float = 1,
        title: str = "",
        dashes: Sequence[float] = (),
    ) -> None:
        """Draws a line."""
        for piece in _pieces(points, dashes) if dashes else [points]:
            scaled = [(x * _SCALE, y * _SCALE) for x, y in piece]
            self._draw.line(scaled, fill=_rgb(color), width=round(width * _SCALE), joint="curve")

    def text(
        self, x: float, y: float, text: str, color: Color = "ink", size: float = 12, anchor: Anchor = "start"
    ) -> None:
        """Writes a line of text."""
        place = {"start": "lm", "middle": "mm", "end": "rm"}[anchor]
        self._draw.text((x * _SCALE, y * _SCALE), text, fill=_rgb(color), font=font(size * _SCALE), anchor=place)

    def heatmap(self, x: float, y: float, width: float, height: float, opacities: np.ndarray) -> None:
        """Fills a grid of cells."""
        cells = Image.fromarray((opacities * 255).astype(np.uint8))
        corners = [round(value * _SCALE) for value in (x, y, x + width, y + height)]
        size = (corners[2] - corners[0], corners[3] - corners[1])
        mask = cells.resize(size, Image.Resampling.NEAREST)
        self.image.paste(_rgb("accent"), (corners[0], corners[1]), mask)

    def picture(self, x: float, y: float, side: float, pixels: np.ndarray) -> None:
        """Resizes a picture, uint8 [height, width, 3], to a square; small ones are enlarged without smoothing."""
        size = round(side * _SCALE)
        method = Image.Resampling.NEAREST if max(pixels.shape[:2]) < size else Image.Resampling.BILINEAR
        self.image.paste(Image.fromarray(pixels).resize((size, size), method), (round(x * _SCALE), round(y * _SCALE)))

    def pixels(self) -> np.ndarray:
        """Returns the picture, uint8 [height, width, 3]."""
        return np.asarray(self.image)


class SvgCanvas:
    """Draws SVG whose colours are the CSS variables of the page around it.

    Args:
        width: Width in units.
        height: Height in units.
        label: Description of the figure for screen readers.
    """

    def __init__(self, width: float, height: float, label: str) -> None:
        element = Markup(
            '<svg viewBox="0 0 {0:g} {1:g}" width="{0:g}" font-family="system-ui, sans-serif" role="img"'
            ' aria-label="{2}">'
        )
        self._parts = [element.format(width, height, label)]

    def rectangle(
        self, x: float, y: float, width: float, height: float, color: Color, opacity: float = 1, title: str = ""
    ) -> None:
        """Fills a rectangle."""
        element = Markup(
            '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill="var(--{})" opacity="{:.2f}"'
            ' shape-rendering="crispEdges">{}</rect>'
        )
        self._parts.append(element.format(x, y, width, height, color, opacity, _title(title)))

    def polygon(
        self, corners: Sequence[tuple[float, float]], color: Color, opacity: float = 1, title: str = ""
    ) -> None:
        """Fills a polygon."""
        shade = Markup(' opacity="{:g}"').format(opacity) if opacity < 1 else ""
        element = Markup('<polygon points="{}" fill="var(--{})"{}>{}</polygon>')
        self._parts.append(element.format(_path(corners), color, shade, _title(title)))

    def line(
        self,
        points: Sequence[tuple[float, float]],
        color: Color,
        width: float = 1,
        title: str = "",
        dashes: Sequence[float] = (),
    ) -> None:
        """Draws a line."""
        dashed = ""
        if dashes:
            dashed = Markup(' stroke-dasharray="{}"').format(" ".join(f"{length:g}" for length in dashes))
        element = Markup(
            '<polyline points="{}" fill="none" stroke="var(--{})" stroke-width="{:g}" stroke-linejoin="round"{}>{}'
            "</polyline>"
        )
        self._parts.append(element.format(_path(points), color, width, dashed, _title(title)))

    def text(
        self, x: float, y: float, text: str, color: Color = "ink", size: float = 12, anchor: Anchor = "start"
    ) -> None:
        """Writes a line of text."""
        element = Markup(
            '<text x="{:.1f}" y="{:.1f}" fill="var(--{})" font-size="{:g}" text-anchor="{}"'
            ' dominant-baseline="central">{}</text>'
        )
        self._parts.append(element.format(x, y, color, size, anchor, text))

    def heatmap(self, x: float, y: float, width: float, height: float, opacities: np.ndarray) -> None:
        """Fills a grid of cells by a mask of one pixel each: ten thousand cells need a few kilobytes."""
        element = Markup(
            '<image x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" preserveAspectRatio="none"'
            ' style="image-rendering:pixelated" href="{}"/>'
        )
        self._parts.append(element.format(x, y, width, height, _accent_pixels(opacities)))

    def svg(self) -> Markup:
        """Returns the ``svg`` element."""
        return Markup("").join([*self._parts, Markup("</svg>")])


@cache
def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Returns Pillow's own font at a size in pixels."""
    return ImageFont.load_default(size)


def text_width(text: str, size: float = 12) -> float:
    """Measures the width of a line of text in units."""
    return font(size).getlength(text)


def shortened(text: str, width: float, size: float = 12) -> str:
    """Cuts a text to a width in units, and ends it with an ellipsis if it was longer."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text + "…"


def png(pixels: np.ndarray) -> bytes:
    """Encodes a picture, uint8 [height, width, 3 or 4], with little compression, which takes most of the time."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def data_uri(picture: bytes, kind: str = "png") -> str:
    """Writes an encoded picture as a ``data:`` address, which contains the picture itself."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _accent_pixels(opacities: np.ndarray) -> str:
    pixels = np.empty((*opacities.shape, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = _rgb("accent"), opacities * 255
    return data_uri(png(pixels))


def _on_white(color: Color, opacity: float) -> tuple[int, int, int]:
    red, green, blue = (round(255 + (channel - 255) * opacity) for channel in _rgb(color))
    return red, green, blue


@cache
def _rgb(color: Color) -> tuple[int, int, int]:
    red, green, blue, *_ = ImageColor.getrgb(COLORS[color][0])
    return red, green, blue


def _pieces(points: Sequence[tuple[float, float]], dashes: Sequence[float]) -> Iterator[list[tuple[float, float]]]:
    """Cuts a line through points into the pieces that are drawn; a dash may go around a corner."""
    lengths = cycle(dashes)
    is_drawn, left, piece = True, next(lengths), [points[0]]
    for start, end in pairwise(points):
        whole = math.dist(start, end)
        done = 0.0
        while whole - done > left:
            done += left
            x, y = (a + (b - a) * done / whole for a, b in zip(start, end, strict=True))
            if is_drawn:
                yield [*piece, (x, y)]
            is_drawn, left, piece = not is_drawn, next(lengths), [(x, y)]
        left -= whole - done
        piece.append(end)
    if is_drawn and piece[1:]:
        yield piece


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _title(text: str) -> Markup:
    return Markup("<title>{}</title>").format(text) if text else Markup("")
