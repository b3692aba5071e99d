"""Labels that are numbers: one or several for each example, a column for each."""

from collections.abc import Sequence

import datasets
import numpy as np
import torch
from torch import Tensor

from lightning_transfer.data.label_values import row_name
from lightning_transfer.errors import UserError


def class_names(dataset: datasets.Dataset, columns: Sequence[str], split: str) -> list[str]:
    """Gives the names of the numbers, which are those of their columns."""
    return list(columns)


def read(dataset: datasets.Dataset, columns: Sequence[str], split: str, names: list[str]) -> Tensor:
    """Reads the numbers of a split.

    Args:
        dataset: The split.
        columns: The column of each number.
        split: Its name.
        names: The names of the numbers.

    Returns:
        float32 [rows, numbers].

    Raises:
        UserError: For a column that holds something else, a row without a number, and other columns than the names.
    """
    if list(columns) != names:
        expected = ", ".join(names)
        raise UserError(f"data.label_column is {', '.join(columns)}: expected {expected}, as in the checkpoint")
    numbers = [np.asarray(dataset.with_format("numpy")[column][:]) for column in columns]
    for column, values in zip(columns, numbers, strict=True):
        if values.dtype.kind not in "iuf" or values.ndim > 1:
            raise UserError(
                f"label column {column!r} holds {dataset.features[column]}: expected one number in each row, name"
                " another label_column"
            )
        wrong = np.flatnonzero(~np.isfinite(values.astype(np.float32)))
        if len(wrong):
            place = row_name(dataset, split, int(wrong[0]))
            raise UserError(
                f"label column {column!r} is {values[wrong[0]]} in {place}: expected a finite number, correct the data"
                " or leave the row out"
            )
    return torch.from_numpy(np.stack([values.astype(np.float32) for values in numbers], 1))
