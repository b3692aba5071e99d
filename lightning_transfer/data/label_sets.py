"""Labels of examples that belong to several classes: a column of lists, or a column of 0 and 1 for each class."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor

from lightning_transfer.errors import UserError


def class_names(dataset: datasets.Dataset, columns: Sequence[str], split: str) -> list[str]:
    """Reads the names of the classes: those of the columns, or those in the lists.

    In lists, words are in the order of the alphabet, and integers count up to the largest.

    Args:
        dataset: The split that is trained on.
        columns: One column of lists, or the columns of 0 and 1.
        split: Its name.

    Raises:
        UserError: For a column that holds something else, and lists that name no class.
    """
    if not _are_lists(dataset, columns):
        return list(columns)
    entries = _entries(dataset.features[columns[0]])
    if isinstance(entries, datasets.ClassLabel):
        return list(entries.names)
    found = set(chain.from_iterable(_lists(dataset, columns[0], split)))
    if not found:
        raise UserError(f"label column {columns[0]!r} of split {split!r} names no class: name another label_column")
    if all(isinstance(label, int) for label in found):
        return [str(label) for label in range(max(found) + 1)]
    return sorted(map(str, found))


def read(dataset: datasets.Dataset, columns: Sequence[str], split: str, names: list[str]) -> Tensor:
    """Reads which classes each row of a split has.

    Args:
        dataset: The split.
        columns: One column of lists, or the columns of 0 and 1.
        split: Its name.
        names: The names of the classes.

    Returns:
        float32 [rows, classes], 1 where the row has the class and 0 elsewhere.

    Raises:
        UserError: For a column that holds something else, and a label that names no class.
    """
    if not _are_lists(dataset, columns):
        return _read_columns(dataset, columns, split)
    lists = _lists(dataset, columns[0], split)
    rows = np.repeat(np.arange(len(lists)), [len(labels) for labels in lists])
    numbers: dict[Any, int] = {name: number for number, name in enumerate(names)}
    labels = list(chain.from_iterable(lists))
    places = np.array(
        [label if isinstance(label, int) else numbers.get(str(label), -1) for label in labels], dtype=np.int64
    )
    wrong = np.flatnonzero((places < 0) | (places >= len(names)))
    if len(wrong):
        raise UserError(
            f"label {labels[wrong[0]]!r} in row {rows[wrong[0]]} of split {split!r} is out of range: expected one of"
            f" {', '.join(names[:8])}{', ...' * (len(names) > 8)}; correct the data, or name another label_column"
        )
    shares = torch.zeros(len(lists), len(names))
    shares[torch.from_numpy(rows), torch.from_numpy(places)] = 1
    return shares


def _read_columns(dataset: datasets.Dataset, columns: Sequence[str], split: str) -> Tensor:
    numbers = dataset.select_columns(list(columns)).with_format("numpy")[:]
    for column in columns:
        wrong = np.flatnonzero(~np.isin(numbers[column], (0, 1)))
        if len(wrong):
            raise UserError(
                f"column {column!r} in row {wrong[0]} of split {split!r} is {numbers[column][wrong[0]]}: expected 0 or"
                " 1; correct the data, or name other columns by data.label_column"
            )
    return torch.from_numpy(np.stack([numbers[column].astype(np.float32) for column in columns], 1))


def _are_lists(dataset: datasets.Dataset, columns: Sequence[str]) -> bool:
    """Says whether the labels are in one column of lists."""
    if len(columns) == 1 and _entries(dataset.features[columns[0]]) is not None:
        return True
    for column in columns:
        feature = dataset.features[column]
        dtype = str(getattr(feature, "dtype", ""))
        if not dtype.startswith(("int", "uint", "bool", "float")):
            raise UserError(
                f"label column {column!r} holds {feature}: expected lists of classes, or several columns of 0 and 1,"
                " as --data.label_column '[red, round]'"
            )
    return False


def _entries(feature: Any) -> Any:
    """The feature of the entries of lists; None where the column holds no lists of words or integers."""
    if isinstance(feature, list):  # as the library wrote it before its version 4
        feature = datasets.Sequence(feature[0])
    entries = getattr(feature, "feature", None)
    dtype = str(getattr(entries, "dtype", ""))
    return entries if dtype.startswith(("int", "uint", "string", "large_string")) else None


def _lists(dataset: datasets.Dataset, column: str, split: str) -> list[list[Any]]:
    lists: list[list[Any]] = dataset.with_format(None)[column][:]
    for row, labels in enumerate(lists):
        if labels is None or None in labels:
            raise UserError(
                f"label column {column!r} holds nothing in row {row} of split {split!r}: expected a list of classes,"
                " which may be empty"
            )
    return lists
