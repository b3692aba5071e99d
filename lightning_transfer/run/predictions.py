"""Writes predictions as JSON Lines: one object for each example, whose row the loader has to know."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_transfer.data.batches import ProblemType, are_shares
from lightning_transfer.data.classification import ClassificationDataModule
from lightning_transfer.data.loader import BatchLoader
from lightning_transfer.errors import UserError
from lightning_transfer.files import replacing

# For each problem type the expected predictions in words, and a function that checks each row or value.
_KINDS: dict[ProblemType, tuple[str, Callable[[Tensor], Tensor]]] = {
    "classification": ("class probabilities, [batch, {}], rows that sum to 1", are_shares),
    "multilabel": ("probabilities, [batch, {}], from 0 to 1", lambda rows: (rows >= 0) & (rows <= 1)),
    "regression": ("numbers, [batch, {}]", torch.isfinite),
}


class KnownRows(L.Callback):
    """Refuses, before the first batch, an evaluation whose loader does not know the rows of its batches."""

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Checks the loader of a prediction."""
        _require_rows(trainer.predict_dataloaders)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Checks the loader of a test."""
        _require_rows(trainer.test_dataloaders)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Checks the loader of a validation."""
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
    """Writes the name and the prediction of each example, in the order of the input.

    The prediction is the class and the probabilities of all classes. If an example may have several classes, it names
    those whose probability is at least a half. In a regression it is the numbers.

    Args:
        output: The file to write.
        batches: Probabilities or numbers, float [batch, classes] each, in the order of the loader's batches.
        loader: The loader, which knows the rows of the batches.
        data: The data module, which knows the names of the classes, and of the examples where they have any.

    Returns:
        The number of examples.

    Raises:
        UserError: If the batches hold anything else than the problem type predicts.
    """
    for batch in batches:
        _require_predictions(batch, len(data.class_names), data.problem_type)
    predictions = loader.in_order(batches).tolist()
    rows = loader.rows(len(batches)).tolist()
    with replacing(output) as partial, partial.open("w", encoding="utf-8") as lines:
        for row, values in zip(rows, predictions, strict=True):
            name = data.predict_names[row] if data.predict_names else row
            lines.write(json.dumps({"name": name, **_in_words(values, data)}) + "\n")
    return len(predictions)


def _in_words(values: list[float], data: ClassificationDataModule[object]) -> dict[str, Any]:
    by_name = dict(zip(data.class_names, values, strict=True))
    if data.problem_type == "regression":
        return {"values": by_name}
    if data.problem_type == "multilabel":
        return {"classes": [name for name, value in by_name.items() if value >= 0.5], "probabilities": by_name}
    return {"class": data.class_names[values.index(max(values))], "probabilities": by_name}


def _require_predictions(batch: object, count: int, problem_type: ProblemType) -> None:
    kind, of_kind = _KINDS[problem_type]
    shape = list(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
    if isinstance(batch, Tensor) and batch.ndim == 2 and batch.shape[1] == count:
        if bool(of_kind(batch).all()):
            return
        shape = "other numbers"
    raise UserError(f"predict_step gives {shape}: expected {kind.format(count)}")
