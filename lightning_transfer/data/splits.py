"""Holds out and cuts training sets: stratified by class, seeded and nested.

Every class has its own random order, a function of the seed alone. The hold-out is the first part of each order, and a
training set is the part after it. So at the same seed a smaller training set is a subset of a larger one. No training
set ever has rows of the hold-out.
"""

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import datasets
import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_transfer.data.hold_outs import ROW_NAME, hold_out_groups
from lightning_transfer.data.label_values import some_of
from lightning_transfer.data.left_out import LeftOut
from lightning_transfer.errors import UserError

Inputs = TypeVar("Inputs")


class Split(Generic[Inputs]):
    """One split of a data set, in memory or memory-mapped.

    Args:
        inputs: The inputs of all rows.
        labels: int64 [rows], -1 where unknown; float32 [rows, classes or numbers] for other problem types.
        fingerprint: Text that changes when the data does.
        names: What each row is called in predictions: the path of its file, or its number in the data set. Numbers from
            0 if not given.
        left_out: The rows of the data set that could not be read and are not in the split.
        rows: int64 [rows], the place of each row in the data set; from 0 on if not given.
    """

    def __init__(
        self,
        inputs: Inputs,
        labels: Tensor,
        fingerprint: str,
        names: Sequence[str | int] | None = None,
        left_out: Sequence[LeftOut] = (),
        rows: np.ndarray | None = None,
    ) -> None:
        self.inputs = inputs
        self.labels = labels
        self.fingerprint = fingerprint
        self.names: Sequence[str | int] = range(len(labels)) if names is None else names
        self.left_out = left_out
        self.rows: np.ndarray = np.arange(len(labels)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.labels)


def names_of(dataset: datasets.Dataset) -> list[str | int]:
    """Returns what each row of a data set is called: the path of its file, or else its place or number."""
    named = next((column for column in ("file_name", ROW_NAME) if column in dataset.column_names), None)
    names: Sequence[object] = [None] * len(dataset) if named is None else dataset[named][:]
    return [name if isinstance(name, str) else row for row, name in enumerate(names)]


def evenly_spaced(total: int, count: int) -> np.ndarray:
    """Returns evenly spaced row numbers from the first of ``total`` rows to the last: int64 [min(count, total)]."""
    return np.linspace(0, total - 1, min(count, total)).astype(np.int64)


def split_train_validation(
    labels: np.ndarray,
    *,
    validation_fraction: float,
    train_fraction: float = 1.0,
    examples_per_class: int | None = None,
    seed: int = 0,
    groups: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Splits the rows of a training set into those to train on and those to validate on.

    Args:
        labels: int64 [rows].
        validation_fraction: Share of each class to hold out, from 0 to below 1. Above 0, each class gives at least one
            row.
        train_fraction: Share of each class's remaining rows to train on, above 0 and up to 1, and at least one row.
        examples_per_class: Number of rows of each class to train on, instead of ``train_fraction``.
        seed: Another seed gives another split.
        groups: int64 [rows]; whole groups are held out, and no row of theirs is trained on.
        class_names: Names of the classes, for errors; their numbers if not given.

    Returns:
        The rows to train on and the rows to validate on: int64, ascending, disjoint.

    Raises:
        UserError: For values out of range, both ``train_fraction`` and ``examples_per_class``, and a class that has
            too few rows.
    """
    check_fractions(validation_fraction, train_fraction)
    if examples_per_class is not None and examples_per_class < 1:
        raise UserError(f"data.examples_per_class is {examples_per_class}: expected 1 or more")
    if examples_per_class is not None and train_fraction != 1:
        raise UserError("give data.train_fraction or data.examples_per_class, not both")
    train, validation, too_few = [], [], []
    by_group = None
    if groups is not None and validation_fraction:
        by_group = hold_out_groups(labels, validation_fraction, seed, groups)
    by_class = np.argsort(labels, kind="stable")
    found, starts = np.unique(labels[by_class], return_index=True)
    for label, rows in zip(found, np.split(by_class, starts[1:]), strict=True):
        rows = np.random.default_rng([seed, int(label)]).permutation(rows)
        held_out = max(1, round(validation_fraction * len(rows))) if validation_fraction else 0
        if by_group is not None:
            rows = rows[np.argsort(~by_group[rows], kind="stable")]  # those held out come first
            held_out = int(by_group[rows].sum())
        left = len(rows) - held_out
        count = max(1, round(train_fraction * left)) if examples_per_class is None else examples_per_class
        if count > left:
            too_few.append(
                _TooFew(str(label) if class_names is None else class_names[label], count, len(rows), held_out)
            )
        validation.append(rows[:held_out])
        train.append(rows[held_out : held_out + count])
    if too_few:
        raise _too_many(too_few)
    if by_group is not None:
        names = [str(label) if class_names is None else class_names[label] for label in found]
        if missed := [name for name, rows in zip(names, validation, strict=True) if not len(rows)]:
            rank_zero_warn(f"whole groups leave no example of {some_of(missed)} to validate on (data.group_column)")
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(validation))


def check_fractions(validation_fraction: float, train_fraction: float) -> None:
    """Checks the shares of a training split to hold out, and to train on.

    Raises:
        UserError: For values out of range.
    """
    if not 0 <= validation_fraction < 1:
        raise UserError(f"data.validation_fraction is {validation_fraction}: expected at least 0 and below 1")
    if not 0 < train_fraction <= 1:
        raise UserError(f"data.train_fraction is {train_fraction}: expected above 0 and up to 1")


class _TooFew(NamedTuple):
    name: str
    wanted: int  # rows to train on
    rows: int
    held_out: int


def _too_many(classes: list[_TooFew]) -> UserError:
    (name, wanted, rows, held_out), *others = classes
    way_out = "lower data.examples_per_class or data.validation_fraction"
    if rows == held_out == 1:  # any fraction above 0 holds out the only row
        way_out = "set data.validation_fraction 0 or leave the class out"
    more = f"; likewise {some_of([other.name for other in others])}" if others else ""
    return UserError(
        f"class {name} has {rows - held_out} rows to train on ({rows} less {held_out} held out for validation):"
        f" {wanted} are too many, {way_out}{more}"
    )
