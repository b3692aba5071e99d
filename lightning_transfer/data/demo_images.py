"""Generates 32x32 colour images: a source task and a small target task that need no download.

Each image shows one object on a background; the label is the object's shape. Everything else varies from image to
image and says nothing about the label: the two colours (either may be the lighter), position, size, any rotation, the
textures of object and background (plain, striped, checked or dotted), lighting and noise. No single pixel tells the
shape, so a linear model stays near chance. Edges and corners, once learned, help with both tasks.

====== ======== ================================= ===========================================
task   shapes   images per class                  look
====== ======== ================================= ===========================================
source 10       800 for training, 200 for testing filled, vivid colours
target 6 others 50 for training, 300 for testing  outlined, muted colours, larger, less noise
====== ======== ================================= ===========================================

The table shows the measured test accuracy in percent, as a mean with its 95 % interval over n=5 seeds, each with its
own pretrained network, on a CPU of 2 cores with one thread. The network has two 5x5 convolutions (6 and 16 channels)
with ReLU and pooling, then 120, 84 and one unit per class. It is trained by AdamW without decay, with a one-cycle
learning rate (its peak is in brackets), in batches of 64 (source) or 32 (target). The tasks were designed and the peaks
chosen by looking at these same figures. They show that transfer can help, but are no evidence for one strategy over
another.

============================================================== ==========
logistic regression on source pixels (n=1, chance 10)          13.3
source, 12 epochs [3e-3], 14 s CPU time                        93.4 ± 0.7
logistic regression on target pixels (n=1, chance 16.7)        20.7
target from scratch, 60 epochs [3e-3]                          48.2 ± 4.6
target fine-tuned, all layers at once, 60 epochs [3e-3]        66.0 ± 4.2
target, linear probe, 60 epochs [1e-2]                         70.8 ± 3.6
target, head 30 epochs [1e-2], linear layers 15, all 15 [1e-3] 74.2 ± 3.1
============================================================== ==========

``pytest tests/test_demo_images.py`` checks that linear models fail and that transfer helps.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from lightning_transfer.errors import UserError

Task = Literal["source", "target"]
Split = Literal["train", "test"]
Grid = npt.NDArray[np.float32]  # [images, height, width]
Shape = Callable[[Grid, Grid], Grid]

IMAGE_SIZE = 32


# The functions below give signed distances, negative inside, of shapes that about fill the unit circle. x points right,
# y up. They use only + - * / sqrt and comparisons, which round alike everywhere, so every machine draws the same bytes.


def _directions(count: int) -> Grid:
    """Returns unit vectors at equal angles, [count, 2], rounded because a cosine's last bit differs by machine."""
    angles = np.arange(count) * (2 * math.pi / count)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).round(6).astype(np.float32)


def _length(x: Grid, y: Grid) -> Grid:
    return np.sqrt(x * x + y * y)


def _box(x: Grid, y: Grid, half_width: float, half_height: float) -> Grid:
    distance: Grid = np.maximum(abs(x) - half_width, abs(y) - half_height)
    return distance


def _sides(x: Grid, y: Grid, corners: Sequence[tuple[float, float]]) -> Grid:
    """Returns signed distances to the lines through neighbouring corners (counterclockwise), [corners, ...]."""
    distances = []
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        side = math.sqrt((x1 - x0) ** 2 + (y1 - y0) ** 2)
        distances.append((x - x0) * ((y1 - y0) / side) - (y - y0) * ((x1 - x0) / side))
    return np.stack(distances)


def _convex(x: Grid, y: Grid, *corners: tuple[float, float]) -> Grid:
    distance: Grid = _sides(x, y, corners).max(axis=0)
    return distance


def _star(x: Grid, y: Grid) -> Grid:
    # Every point in the star lies beyond at most one side of the inner pentagon.
    pentagon = [(0.43 * float(c), 0.43 * float(s)) for c, s in _directions(5)]
    distance: Grid = np.partition(_sides(x, y, pentagon), 3, axis=0)[3]
    return distance


def _bolt(x: Grid, y: Grid) -> Grid:
    upper_half = (-0.65, -0.15), (0.1, -0.15), (0.25, 1.0)
    distance: Grid = np.minimum(_convex(x, y, *upper_half), _convex(-x, -y, *upper_half))
    return distance


_SHAPES: dict[Task, dict[str, Shape]] = {
    "source": {
        "circle": lambda x, y: _length(x, y) - 0.85,
        "crescent": lambda x, y: np.maximum(_length(x, y) - 0.95, 0.75 - _length(x - 0.45, y)),
        "cross": lambda x, y: np.minimum(_box(x, y, 0.95, 0.28), _box(x, y, 0.28, 0.95)),
        "heart": lambda x, y: np.minimum((abs(x) + abs(y)) * 0.707 - 0.52, _length(abs(x) - 0.37, y - 0.37) - 0.52),
        "hourglass": lambda x, y: np.maximum((abs(x) - abs(y)) * 0.707 - 0.1, _box(x, y, 0.85, 0.85)),
        "ring": lambda x, y: abs(_length(x, y) - 0.7) - 0.22,
        "semicircle": lambda x, y: np.maximum(_length(x, y + 0.4) - 0.95, -0.4 - y),
        "square": lambda x, y: _box(x, y, 0.75, 0.75),
        "star": _star,
        "triangle": lambda x, y: _convex(x, y, (-0.9, -0.52), (0.9, -0.52), (0.0, 1.04)),
    },
    "target": {
        "arrow": lambda x, y: np.minimum(
            _box(x, y + 0.15, 0.22, 0.8), _convex(x, y, (-0.9, 0.05), (0.9, 0.05), (0.0, 0.95))
        ),
        "bolt": _bolt,
        "drop": lambda x, y: np.minimum(
            _length(x, y + 0.35) - 0.6, _convex(x, y, (0.0, -0.9), (0.54, -0.08), (0.0, 1.0), (-0.54, -0.08))
        ),
        "flower": lambda x, y: np.stack([_length(x - 0.58 * c, y - 0.58 * s) for c, s in _directions(5)]).min(0) - 0.36,
        # Walls and roof overlap by less than two widths of the outline, so the line between them stays visible.
        "house": lambda x, y: np.minimum(
            _box(x, y + 0.35, 0.6, 0.5), _convex(x, y, (-0.9, 0.0), (0.9, 0.0), (0.0, 0.9))
        ),
        "leaf": lambda x, y: _length(abs(x) + 0.6, y) - 1.1,
    },
}
TASKS: dict[Task, tuple[str, ...]] = {task: tuple(shapes) for task, shapes in _SHAPES.items()}


class _Look(NamedTuple):
    """Settings by which a task's images are drawn: lengths in pixels, shades as fractions, noise in grey levels."""

    palette: str  # a ring of colours: neighbours look alike, so they never occur in the same image
    images_per_class: dict[Split, int]
    radius: tuple[float, float]
    largest_shift: float
    outline: float  # width of the line; 0 fills the shape
    object_shade: float
    background_shade: float
    noise: int


_LOOKS: dict[Task, _Look] = {
    "source": _Look(
        palette="d7263d f46036 f5b700 6ba547 1b998b 2176ae 2e294e 8f2d8c",
        images_per_class={"train": 800, "test": 200},
        radius=(8, 13),
        largest_shift=4,
        outline=0,
        object_shade=0.4,
        background_shade=0.5,
        noise=25,
    ),
    "target": _Look(
        palette="f2e8cf e9c46a e07a5f 9c6644 463f3a 3d5a80 81b29a bcd4de",
        images_per_class={"train": 50, "test": 300},
        radius=(10, 14),
        largest_shift=3,
        outline=2.2,
        object_shade=0.2,
        background_shade=0.3,
        noise=15,
    ),
}


def _uniform(rng: np.random.Generator, count: int, low: float, high: float) -> Grid:
    return low + (high - low) * rng.random((count, 1, 1), dtype=np.float32)


def _rotated(rng: np.random.Generator, x: Grid, y: Grid) -> tuple[Grid, Grid]:
    """Rotates the coordinates [images, height, width] by a random whole number of degrees per image."""
    cosine, sine = _directions(360)[rng.integers(360, size=len(x))].T[..., None, None]
    return x * cosine + y * sine, y * cosine - x * sine


def _texture(rng: np.random.Generator, x: Grid, y: Grid) -> Grid:
    """Draws a plain, striped, checked or dotted pattern from 0 to 1 for each image: [images, height, width]."""
    count = len(x)

    def triangle_wave(pixels: Grid) -> Grid:
        turns = pixels / period + _uniform(rng, count, 0, 1)
        wave: Grid = 4 * abs(turns - np.floor(turns) - 0.5) - 1
        return wave

    period = _uniform(rng, count, 5, 11)
    u, v = map(triangle_wave, _rotated(rng, x, y))
    kind = rng.integers(4, size=(count, 1, 1))
    edges = np.where(kind < 2, u * (kind == 1), np.where(kind == 2, 2 * u * v, 0.6 - u * u - v * v))
    return np.clip(edges * period, -1, 1) * 0.5 + 0.5  # the edges are about one pixel wide


def _draw(shape: Shape, look: _Look, count: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draws ``count`` images of one shape: uint8 [count, 3, IMAGE_SIZE, IMAGE_SIZE]."""
    middle = (IMAGE_SIZE - 1) / 2
    column = np.tile(np.arange(IMAGE_SIZE, dtype=np.float32) - middle, (count, IMAGE_SIZE, 1))
    row = -column.swapaxes(1, 2)
    x, y = (axis - _uniform(rng, count, -look.largest_shift, look.largest_shift) for axis in (column, row))
    radius = _uniform(rng, count, *look.radius)
    distance = shape(*_rotated(rng, x / radius, y / radius)) * radius
    if look.outline:
        distance = abs(distance + look.outline / 2) - look.outline / 2
    coverage = np.clip(0.5 - distance, 0, 1)

    light = 1 + (column * _uniform(rng, count, -0.3, 0.3) + row * _uniform(rng, count, -0.3, 0.3)) / IMAGE_SIZE
    object_light = light * (1 - _uniform(rng, count, 0, look.object_shade) * _texture(rng, x, y))
    background_light = light * (1 - _uniform(rng, count, 0, look.background_shade) * _texture(rng, column, row))

    palette = np.array([list(bytes.fromhex(colour)) for colour in look.palette.split()])
    first = rng.integers(len(palette), size=count)
    second = (first + rng.integers(2, len(palette) - 1, size=count)) % len(palette)
    colours = palette[np.stack([first, second])] + rng.integers(-24, 25, size=(2, count, 3))
    object_colour, background_colour = colours.astype(np.float32)[..., None, None]

    images: Grid = object_colour * (object_light * coverage)[:, None]
    images += background_colour * (background_light * (1 - coverage))[:, None]
    images += rng.integers(-look.noise, look.noise + 1, size=images.shape, dtype=np.int8)
    return images.clip(0, 255).round().astype(np.uint8)


def generate(
    task: Task, split: Split, seed: int = 0, images_per_class: int | None = None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Draws one split of one task, as a pure function of its arguments: the same bytes on every machine.

    Args:
        task: ``source`` (10 shapes, filled) or ``target`` (6 other shapes, outlined, few training images).
        split: ``train`` or ``test``, which share no image.
        seed: At least 0; another seed draws other images of the same task.
        images_per_class: At least 1; the task's own number if omitted.

    Returns:
        images: uint8 [count, 3, 32, 32], RGB, balanced over the classes and in random order.
        labels: int64 [count], the index into ``TASKS[task]``.

    Raises:
        UserError: For an unknown task or split, a negative seed, or fewer than one image per class.
    """
    for name, value, known in (("task", task, get_args(Task)), ("split", split, get_args(Split))):
        if value not in known:
            raise UserError(f"demo {name} {value!r} is not one of {', '.join(known)}")
    count = _LOOKS[task].images_per_class[split] if images_per_class is None else images_per_class
    for name, number, least in (("seed", seed, 0), ("images_per_class", count, 1)):
        if number < least:
            raise UserError(f"demo {name} is {number}: expected {least} or more")

    images, labels = _drawn(task, split, seed, count)
    return images.copy(), labels.copy()


@functools.lru_cache(maxsize=4)  # the runs of a study, one after another in a process, have the same images
def _drawn(
    task: Task, split: Split, seed: int, images_per_class: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Draws what ``generate`` gives, once."""
    shapes = _SHAPES[task].values()
    streams = np.random.SeedSequence(seed, spawn_key=(get_args(Task).index(task), get_args(Split).index(split)))
    order, *per_shape = map(np.random.default_rng, streams.spawn(1 + len(shapes)))
    draw = functools.partial(_draw, look=_LOOKS[task], count=images_per_class)
    images = np.concatenate([draw(shape, rng=rng) for shape, rng in zip(shapes, per_shape, strict=True)])
    labels = np.repeat(np.arange(len(shapes), dtype=np.int64), images_per_class)
    shuffled = order.permutation(len(labels))
    return images[shuffled], labels[shuffled]
