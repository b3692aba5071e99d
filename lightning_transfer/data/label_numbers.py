"""Labels that are numbers: one or several for each example, a column for each."""

import math
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
    numbers = [_numbers(dataset, column, split) for column in columns]
    for column, values in zip(columns, numbers, strict=True):
        wrong = np.flatnonzero(~np.isfinite(values.astype(np.float32)))
        if len(wrong):
            place = row_name(dataset, split, int(wrong[0]))
            raise UserError(
                f"label column {column!r} is {values[wrong[0]]} in {place}: expected a finite number, correct the data"
                " or leave the row out"
            )
    return torch.from_numpy(np.stack([values.astype(np.float32) for values in numbers], 1))


def _numbers(dataset: datasets.Dataset, column: str, split: str) -> np.ndarray:
    dtype = str(getattr(dataset.features[column], "dtype", ""))
    if dtype.startswith("decimal"):
        dataset = dataset.cast_column(column, datasets.Value("float64"))
    values = np.asarray(dataset.with_format("numpy")[column][:])
    if values.dtype.kind in "iuf" and values.ndim == 1:
        return values
    if dtype in ("string", "large_string"):
        words = dataset.with_format(None)[column][:]
        wrong = next((row for row, word in enumerate(words) if word is not None and not _is_number(word)), None)
        if wrong is not None and sum(map(_is_number, filter(None, words))) > len(words) / 2:
            raise UserError(
                f"label {words[wrong]!r} in {row_name(dataset, split, wrong)} is no number: correct it, leave the row"
                f" out, or name another label_column than {column}"
            )
    raise UserError(
        f"label column {column!r} holds {dataset.features[column]}: expected one number in each row, name another"
        " label_column"
    )


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False
