"""Labels of examples that belong to several classes: a column of lists, or a column of 0 and 1 for each class."""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from lightning_transfer.data.label_values import NamedValues, is_nothing, named_values, places_of, row_name, some_of
from lightning_transfer.data.memory import require_memory
from lightning_transfer.data.natural_order import in_natural_order
from lightning_transfer.errors import UserError


def class_names(dataset: datasets.Dataset, columns: Sequence[str], split: str) -> list[str]:
    """Reads the names of the classes: those of the columns, or those in the lists.

    Those in lists are in natural order, words as well as integers.

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
    labels = _named(dataset, columns[0], split)
    names = in_natural_order({name for name in labels.names if name is not None})
    if not names:
        raise UserError(f"label column {columns[0]!r} of split {split!r} names no class: name another label_column")
    return names


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
        return _read_columns(dataset, columns, split, names)
    labels = _named(dataset, columns[0], split)
    places = places_of(labels.names, names)
    wrong = np.flatnonzero(places < 0)
    if len(wrong):
        place = labels.first_row(wrong)
        label, row = labels.values[labels.codes[place]], int(_rows(dataset, columns[0])[place])
        raise UserError(
            f"label {label!r} in {row_name(dataset, split, row)} is out of range: expected one of {some_of(names)};"
            " correct the data, or name another label_column"
        )
    require_memory(
        4 * len(dataset) * len(names),
        f"label column {columns[0]!r} of split {split!r} has {len(names):,} classes: labels of {len(dataset):,} rows",
        "name another label_column, or leave rare classes out",
    )
    shares = np.zeros((len(dataset), len(names)), np.float32)
    shares[_rows(dataset, columns[0]), places[labels.codes]] = 1
    return torch.from_numpy(shares)


def _read_columns(dataset: datasets.Dataset, columns: Sequence[str], split: str, names: list[str]) -> Tensor:
    if set(columns) != set(names):
        raise UserError(f"data.label_column is {', '.join(columns)}: expected {', '.join(names)}, as in the checkpoint")
    numbers = dataset.select_columns(names).with_format("numpy")[:]
    for column in columns:
        wrong = np.flatnonzero(~np.isin(numbers[column], (0, 1)))
        if len(wrong):
            place = row_name(dataset, split, int(wrong[0]))
            raise UserError(
                f"column {column!r} in {place} is {numbers[column][wrong[0]]}: expected 0 or 1; correct the data, or"
                " name other columns by data.label_column"
            )
    return torch.from_numpy(np.stack([numbers[column].astype(np.float32) for column in names], 1))


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


def _named(dataset: datasets.Dataset, column: str, split: str) -> NamedValues:
    """Names the labels in all lists, one list after the other."""
    lists = _lists(dataset, column)
    labels = named_values(pc.list_flatten(lists), _entries(dataset.features[column]))
    empty = [place for place, value in enumerate(labels.values) if is_nothing(value)]
    rows = [*np.flatnonzero(lists.is_null()), *(_rows(dataset, column)[[labels.first_row(empty)]] if empty else ())]
    if rows:
        raise UserError(
            f"label column {column!r} holds nothing in {row_name(dataset, split, int(min(rows)))}: expected a list of"
            " classes, which may be empty"
        )
    return labels


def _rows(dataset: datasets.Dataset, column: str) -> np.ndarray:
    """The row of each label in all lists, int64 [labels]."""
    rows: np.ndarray = pc.list_parent_indices(_lists(dataset, column)).to_numpy()
    return rows


def _lists(dataset: datasets.Dataset, column: str) -> pa.Array:
    lists = dataset.select_columns(column).with_format("arrow")[:].column(0)
    return lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
