"""Predictions as JSON Lines: one object for each example, whose row the loader has to know."""

import json
from pathlib import Path

import lightning as L
from torch import Tensor

from lightning_transfer.data.batches import are_shares
from lightning_transfer.data.classification import ClassificationDataModule
from lightning_transfer.data.loader import BatchLoader
from lightning_transfer.errors import UserError
from lightning_transfer.files import replacing


class KnownRows(L.Callback):
    """Refuses an evaluation whose loader does not say which rows its batches are of, before the first batch."""

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Looks at the loader of a prediction."""
        _require_rows(trainer.predict_dataloaders)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Looks at the loader of a test."""
        _require_rows(trainer.test_dataloaders)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Looks at the loader of a validation."""
        _require_rows(trainer.val_dataloaders)


def _require_rows(loader: object) -> None:
    if not isinstance(loader, BatchLoader):
        raise UserError(
            f"a {type(loader).__name__} does not say which rows its batches are of: derive the data from"
            " ClassificationDataModule, whose loaders do"
        )


def write_predictions(
    output: Path, batches: list[Tensor], loader: BatchLoader, data: ClassificationDataModule[object]
) -> int:
    """Writes the name, the class and the probabilities of all classes for each example, in the order of the input.

    Args:
        output: The file to write.
        batches: Class probabilities, float [batch, classes] each, as the loader's batches came.
        loader: Knows which rows they were.
        data: Knows the names of the classes, and of the examples where they have any.

    Returns:
        The number of examples.

    Raises:
        UserError: Where something else was predicted.
    """
    for batch in batches:
        _require_probabilities(batch, len(data.class_names))
    probabilities = loader.in_order(batches).tolist()
    rows = loader.rows(len(batches)).tolist()
    with replacing(output) as partial, partial.open("w", encoding="utf-8") as lines:
        for row, of_classes in zip(rows, probabilities, strict=True):
            name = data.predict_names[row] if data.predict_names else row
            line = {"name": name, "class": data.class_names[of_classes.index(max(of_classes))]}
            line["probabilities"] = dict(zip(data.class_names, of_classes, strict=True))
            lines.write(json.dumps(line) + "\n")
    return len(probabilities)


def _require_probabilities(batch: object, classes: int) -> None:
    shape = list(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
    if isinstance(batch, Tensor) and batch.ndim == 2 and batch.shape[1] == classes:
        if bool(are_shares(batch).all()):
            return
        shape = "other numbers"
    raise UserError(f"predict_step gives {shape}: expected class probabilities, [batch, {classes}], rows that sum to 1")
