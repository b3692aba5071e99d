"""The column of the labels, and the names of the classes."""

from collections.abc import Sequence

import datasets
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_transfer.data.label_values import NamedValues, is_nothing, named_values, places_of, row_name, some_of
from lightning_transfer.data.natural_order import in_natural_order
from lightning_transfer.errors import UserError

_NAMEABLE = ("int", "uint", "float", "decimal", "bool", "string", "large_string", "null")
_WAY_OUT = "name another label_column"
_MOST_CLASSES = 100_000  # a network's head of more would take gigabytes; the largest sets of photographs have 20,000


def class_names(dataset: datasets.Dataset, columns: Sequence[str], split: str) -> list[str]:
    """Reads the names of classes: those of class labels, or the values that occur, in natural order.

    Args:
        dataset: The split that is trained on.
        columns: The column of the labels, alone.
        split: Its name.

    Raises:
        UserError: For a column that holds neither whole numbers nor words, or a row without a label, and for a column
            that has a single class, more than 100,000, or another word in each row.
    """
    names = _names_of_classes(dataset, columns[0], split)
    if len(names) > _MOST_CLASSES:
        raise UserError(
            f"label column {columns[0]!r} of split {split!r} has {len(names):,} classes: expected at most"
            f" {_MOST_CLASSES:,}; {_WAY_OUT}, or set data.problem_type to regression for numbers"
        )
    return names


def _names_of_classes(dataset: datasets.Dataset, column: str, split: str) -> list[str]:
    feature = dataset.features[column]
    if isinstance(feature, datasets.ClassLabel):
        names = list(feature.names)  # also of those without an example
        if len(names) == 1:
            way_out = _WAY_OUT
            if "file_name" in dataset.column_names:
                way_out = "put the files of each class into a folder of its own"
            raise UserError(f"split {split!r} has one class, {names[0]}: expected two or more; {way_out}")
        return names
    labels = _read(dataset, column)
    names = in_natural_order({name for name in labels.names if name is not None})
    if not names and all(is_nothing(value) or value < 0 for value in labels.values):
        found = some_of([str(value) for value in labels.values])
        raise UserError(f"split {split!r} has no labels to train on: all are {found}; {_WAY_OUT} or train_split")
    _require_names(labels, dataset, column, split, names)
    if isinstance(labels.values[0], str) and len(names) == len(dataset) > 1:
        raise UserError(f"label column {column!r} of split {split!r} holds another word in each row: {_WAY_OUT}")
    if len(names) == 1:
        raise UserError(
            f"label column {column!r} of split {split!r} has one class, {names[0]}: expected two or more; {_WAY_OUT}"
        )
    _say_what_was_joined(labels, column)
    return names


def read(dataset: datasets.Dataset, columns: Sequence[str], split: str, names: list[str]) -> Tensor:
    """Reads the labels of a split, int64 [rows], by the names of their classes.

    Raises:
        UserError: For a column that holds neither whole numbers nor words, and a label that names no class.
    """
    [column] = columns
    labels = _read(dataset, column)
    _require_names(labels, dataset, column, split, names)
    places = places_of(labels.names, names)
    wrong = np.flatnonzero(places < 0)
    if len(wrong):
        row = labels.first_row(wrong)
        is_number = isinstance(dataset.features[column], datasets.ClassLabel)
        label = (labels.names if is_number else labels.values)[labels.codes[row]]
        raise UserError(
            f"label {label!r} in {row_name(dataset, split, row)} is out of range: expected {some_of(names)}; correct"
            f" the data{_or_other_column(dataset)}"
        )
    return torch.from_numpy(places[labels.codes])


def check_classes(own: list[str], of_checkpoint: list[str], *, to_train: bool = False) -> None:
    """Compares the names of the data's classes with those of a checkpoint.

    In an evaluation, fewer or in another order are no mistake, because labels are read by their names.

    Args:
        own: The names of the data's classes.
        of_checkpoint: Those of the checkpoint's.
        to_train: Whether a training goes on, whose hold-out depends on the order.

    Raises:
        UserError: Where the data has others.
    """
    if own == of_checkpoint or not (to_train or (places_of(own, of_checkpoint) < 0).any()):
        return
    order = ", in the same order" if set(own) == set(of_checkpoint) else ""
    raise UserError(
        f"the checkpoint's classes are {some_of(of_checkpoint)}, and the data's {some_of(own)}: give data with the"
        f" same{order}"
    )


def _read(dataset: datasets.Dataset, column: str) -> NamedValues:
    feature = dataset.features[column]
    dtype = str(getattr(feature, "dtype", ""))
    if not isinstance(feature, datasets.ClassLabel | datasets.Value) or not dtype.startswith(_NAMEABLE):
        raise UserError(
            f"label column {column!r} holds {feature}, not one integer or word in each row: {_WAY_OUT}, or set"
            " data.problem_type to multilabel or regression"
        )
    return named_values(dataset.select_columns(column).with_format("arrow")[:].column(0), feature)


def _require_names(
    labels: NamedValues, dataset: datasets.Dataset, column: str, split: str, names: Sequence[str]
) -> None:
    nameless = [place for place, name in enumerate(labels.names) if name is None]
    if not nameless:
        return
    row = labels.first_row(nameless)
    value, place = labels.values[labels.codes[row]], row_name(dataset, split, row)
    expected = some_of(names) or "whole numbers or words"
    if is_nothing(value):
        raise UserError(
            f"label column {column!r} holds nothing in {place}: expected {expected}; give the row a label, or leave it"
            f" out{_or_other_column(dataset)}"
        )
    if value == -1 and "file_name" in dataset.column_names:
        raise UserError(
            f"{place} has no label: expected a file in a folder of its class, {expected}; move it there, or name"
            " another split"
        )
    if value % 1:
        raise UserError(
            f"label {value} in {place} is no whole number: expected {expected}; correct the data, {_WAY_OUT}, or set"
            " data.problem_type to regression"
        )
    raise UserError(
        f"label {value} in {place} is out of range: expected {expected}; leave rows without a label out, and write"
        f" classes from 0 or as words{_or_other_column(dataset)}"
    )


def _or_other_column(dataset: datasets.Dataset) -> str:
    """The labels of files are the names of their folders."""
    return "" if "file_name" in dataset.column_names else f", or {_WAY_OUT}"


def _say_what_was_joined(labels: NamedValues, column: str) -> None:
    spellings: dict[str | None, list[str]] = {}
    for value, name in zip(labels.values, labels.names, strict=True):
        spellings.setdefault(name, []).append(repr(value))
    joined = [f"{name} ({' and '.join(ways)})" for name, ways in spellings.items() if len(ways) > 1]
    if joined:
        rank_zero_warn(
            f"label column {column!r} writes some classes in several ways, which are read as one: {some_of(joined)}"
        )
