"""Turns batches into pictures and words, so that dashboards can show the examples of any data."""

from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lightning_transfer.dashboards.events import has_boards
from lightning_transfer.data.batches import ImageBatch, TextBatch
from lightning_transfer.run.best_checkpoint import best_checkpoint


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


def first_batches(trainer: L.Trainer, examples: int) -> list[Any]:
    """Reads batches of the hold-out, on the device, before a training; all ranks have to call it.

    Args:
        trainer: The trainer, at the start of ``fit``.
        examples: How many examples are enough.

    Returns:
        The batches; none where nothing is held out, or the examples cannot be shown.
    """
    if not trainer.enable_validation:
        return []
    trainer.fit_loop.epoch_loop.val_loop.setup_data()
    if not sum(trainer.num_val_batches):
        return []
    loaders: Any = trainer.val_dataloaders
    batches: list[Any] = []
    with isolate_rng():  # torch's DataLoader draws a seed for each iterator, which would change the training
        for batch in loaders[0] if isinstance(loaders, list | tuple) else loaders:
            batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
            if not is_shown(batch):
                return []
            batches.append(batch)
            if sum(len(one.labels) for one in batches) >= examples:
                break
    return batches


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


def trimmed(batch: Any) -> Any:
    """Takes from texts the padding that all of them have; images stay as they are."""
    if not isinstance(batch, TextBatch):
        return batch
    return batch._replace(token_ids=batch.token_ids[:, : int(batch.lengths.max())])


def join(batches: Sequence[Any]) -> Any:
    """Joins batches of one kind into one; texts are padded to the longest."""
    fields = []
    for parts in zip(*batches, strict=True):
        if isinstance(batches[0], TextBatch) and parts[0].ndim == 2:
            width = max(part.shape[1] for part in parts)
            parts = tuple(torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts)
        fields.append(torch.cat(parts))
    return type(batches[0])(*fields)
