"""Turns batches into pictures and words, so that dashboards can show the examples of any data."""

from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from lightning_transfer.dashboards.events import has_boards
from lightning_transfer.data.batches import ImageBatch, TextBatch
from lightning_transfer.report.drawing import PixelCanvas, shortened
from lightning_transfer.report.palette import Color
from lightning_transfer.run.best_checkpoint import best_checkpoint

_PICTURE = 96  # side of a picture in a grid, in units
_CAPTION = 16


def shows_validation(trainer: L.Trainer) -> bool:
    """Says whether this is a validation of ``fit`` whose examples dashboards show; all ranks agree."""
    return trainer.state.fn == "fit" and not trainer.sanity_checking and has_boards(trainer)


def is_best(trainer: L.Trainer) -> bool:
    """Says whether the weights of this moment are those of the best checkpoint; all ranks agree."""
    best = best_checkpoint(trainer)
    return best is not None and best.best_step == trainer.global_step


def is_shown(batch: Any) -> bool:
    """Says whether the examples of a batch can be shown, which images and texts can."""
    return isinstance(batch, ImageBatch | TextBatch)


def class_names(trainer: L.Trainer, num_classes: int) -> list[str]:
    """Returns the names of the classes, or their numbers if the data has no names."""
    names = getattr(getattr(trainer, "datamodule", None), "class_names", None)
    return list(names) if names and len(names) == num_classes else [str(label) for label in range(num_classes)]


def to_pixels(trainer: L.Trainer, images: Tensor) -> np.ndarray:
    """Turns the network's input back into pictures.

    Args:
        trainer: Trainer whose data module undoes the normalisation. If it cannot, each picture is stretched from
            its darkest to its brightest value.
        images: float [batch, channels, height, width].

    Returns:
        uint8 [batch, height, width, 3].
    """
    undo = getattr(getattr(trainer, "datamodule", None), "to_pixels", None)
    if undo is not None:
        pixels = undo(images)
    else:
        low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
        pixels = (images - low) / (high - low).clamp(min=1e-6) * 255
    pixels = pixels.clamp(0, 255).byte().cpu()
    if pixels.shape[1] != 3:
        pixels = pixels[:, :1].expand(-1, 3, -1, -1)
    shown: np.ndarray = pixels.permute(0, 2, 3, 1).numpy()
    return shown


def to_tokens(trainer: L.Trainer, token_ids: Sequence[int]) -> list[str]:
    """Turns each token id into text, or into its number if the data has no tokenizer."""
    read = getattr(getattr(trainer, "datamodule", None), "read_tokens", None)
    return read(token_ids) if read is not None else [str(token) for token in token_ids]


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


def label_words(trainer: L.Trainer, pl_module: L.LightningModule, labels: Tensor) -> list[str]:
    """Writes the label of each example: its class, all its classes, or its numbers.

    Args:
        trainer: Trainer whose data module has the names of the classes or numbers.
        pl_module: Module that has the number of classes, and the problem type.
        labels: int64 [batch], or float [batch, classes]: the shares of mixed images, 1 for each class that an example
            has, or numbers.

    Returns:
        The text of each label; for a mixed image, the class with the largest share.
    """
    problem_type = getattr(pl_module, "problem_type", "classification")
    if labels.ndim == 2 and problem_type != "classification":
        names = class_names(trainer, labels.shape[1])
        rows = [dict(zip(names, row, strict=True)) for row in labels.tolist()]
        if problem_type == "multilabel":
            return [", ".join(name for name, share in row.items() if share >= 0.5) or "none" for row in rows]
        return [", ".join(f"{name} {value:.4g}" for name, value in row.items()) for row in rows]
    numbers = (labels if labels.ndim == 1 else labels.argmax(1)).tolist()
    names = class_names(trainer, getattr(pl_module, "num_classes", max(numbers) + 1))
    return [names[number] for number in numbers]


def take(batch: Any, rows: Tensor | slice) -> Any:
    """Makes a batch of some examples of another."""
    return type(batch)(*(field[rows] for field in batch))


def join(batches: Sequence[Any]) -> Any:
    """Joins batches of one kind into one; texts are padded to the longest."""
    fields = []
    for parts in zip(*batches, strict=True):
        if isinstance(batches[0], TextBatch) and parts[0].ndim == 2:
            width = max(part.shape[1] for part in parts)
            parts = tuple(torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts)
        fields.append(torch.cat(parts))
    return type(batches[0])(*fields)
