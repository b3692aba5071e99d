"""Predictions as JSON Lines: one object for each example."""

import json
from pathlib import Path

from torch import Tensor

from lightning_transfer.data.classification import ClassificationDataModule
from lightning_transfer.data.loader import BatchLoader


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
    """
    probabilities = loader.in_order(batches).tolist()
    names = data.predict_names or range(len(probabilities))
    with output.open("w", encoding="utf-8") as lines:
        for name, row in zip(names, probabilities, strict=True):
            line = {"name": name, "class": data.class_names[row.index(max(row))]}
            line["probabilities"] = dict(zip(data.class_names, row, strict=True))
            lines.write(json.dumps(line) + "\n")
    return len(probabilities)
