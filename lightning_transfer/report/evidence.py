"""Draws what predictions rest on: in blue what speaks for a class, in orange what speaks against it."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from PIL import ImageColor

from lightning_transfer.report.drawing import PixelCanvas, text_width
from lightning_transfer.report.palette import COLORS, Color

_OPAQUE = 0.85  # of the strongest colour
_STRONGEST = 99  # percentile of a map from which on all is as strong, so that single pixels do not outshine it
_WIDTH, _LINE, _SIZE = 720, 24, 13  # of a picture of words, in units


def overlay(picture: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Colours a picture in grey by a map.

    Args:
        picture: uint8 [height, width, 3].
        scores: float [height, width].

    Returns:
        uint8 [height, width, 3].
    """
    strength = np.abs(scores)
    scale = np.percentile(strength, _STRONGEST) or strength.max() or 1.0
    opacity = _OPAQUE * np.clip(strength / scale, 0, 1)[..., None]
    gray = 90 + 0.6 * picture.astype(float).mean(2, keepdims=True)
    color = np.where((scores > 0)[..., None], _rgb(1), _rgb(-1))
    shown: np.ndarray = ((1 - opacity) * gray + opacity * color).round().astype(np.uint8)
    return shown


def enlarged(picture: np.ndarray, side: int = 160) -> np.ndarray:
    """Enlarges a small picture, uint8 [height, width, 3], by a whole number, so that pixels stay sharp."""
    factor = max(1, side // max(picture.shape[:2]))
    return picture.repeat(factor, 0).repeat(factor, 1)


def words_html(words: Sequence[str], scores: Sequence[float]) -> Markup:
    """Writes words with a coloured ground, whose score is under the mouse."""
    scale = max(map(abs, scores), default=0) or 1
    marked = (marked_word(word, score, score / scale) for word, score in zip(words, scores, strict=True))
    return Markup('<p class="tokens">{}</p>').format(Markup(" ").join(marked))


def marked_word(word: str, score: float, strength: float) -> Markup:
    """Writes a word on a ground in the colour of its score, which is under the mouse; a strength of 1 is the most."""
    element = Markup(
        '<span style="background: color-mix(in srgb, var(--{}) {:.0f}%, transparent)" title="{:+.3g}">{}</span>'
    )
    return element.format(_color(score), 70 * abs(strength), score, word)


def words_picture(words: Sequence[str], scores: Sequence[float]) -> np.ndarray:
    """Draws words likewise, uint8 [height, width, 3]."""
    scale = max(map(abs, scores), default=0) or 1
    places, x, y = [], 8.0, 8.0
    for word in words:
        width = text_width(word, _SIZE) + 6
        if x > 8 and x + width > _WIDTH - 8:
            x, y = 8.0, y + _LINE
        places.append((x, y, width))
        x += width + 3
    canvas = PixelCanvas(_WIDTH, y + _LINE + 8)
    for word, score, (left, top, width) in zip(words, scores, places, strict=True):
        canvas.rectangle(left, top, width, _LINE - 3, _color(score), 0.7 * abs(score) / scale)
        canvas.text(left + 3, top + (_LINE - 3) / 2, word, size=_SIZE)
    return canvas.pixels()


def _color(score: float) -> Color:
    return "accent" if score > 0 else "second"


def _rgb(score: float) -> np.ndarray:
    return np.array(ImageColor.getrgb(COLORS[_color(score)][0]))
