"""The column of the labels, and the names of the classes."""

from collections.abc import Sequence

import datasets
import numpy as np
import torch
from torch import Tensor

from lightning_transfer.errors import UserError


def class_names(dataset: datasets.Dataset, columns: Sequence[str], split: str) -> list[str]:
    """Reads the names of class labels; words are in the order of the alphabet, integers up to the largest.

    Args:
        dataset: The split that is trained on.
        columns: The column of the labels, alone.
        split: Its name.

    Raises:
        UserError: For a column that holds neither integers nor words, or none that names a class.
    """
    [column] = columns
    feature = dataset.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    if _are_words(feature):
        words = dataset.unique(column)
        if None in words or len(words) == len(dataset):
            found = "nothing in some row" if None in words else "another word in each row"
            raise UserError(f"label column {column!r} of split {split!r} holds {found}: name another label_column")
        return sorted(map(str, words))
    largest = int(_integers(dataset, column).max())
    if largest < 0:
        raise UserError(
            f"split {split!r} has no labels to train on: all are {largest} or less; name another label_column or"
            " train_split"
        )
    return [str(label) for label in range(largest + 1)]


def read(dataset: datasets.Dataset, columns: Sequence[str], split: str, names: list[str]) -> Tensor:
    """Reads the labels of a split, int64 [rows], and checks that each names a class.

    Raises:
        UserError: For a column that holds neither integers nor words, and a label that names no class.
    """
    [column] = columns
    are_words = _are_words(dataset.features[column])
    if are_words:
        numbers = {name: number for number, name in enumerate(names)}
        labels = np.array([numbers.get(str(word), -1) for word in dataset[column]])
    else:
        labels = _integers(dataset, column)
    wrong = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if len(wrong):
        label, expected = dataset[int(wrong[0])][column], _some(names) if are_words else f"0 to {len(names) - 1}"
        raise UserError(
            f"label {label!r} in row {wrong[0]} of split {split!r} is out of range: expected {expected}; correct the"
            " data, or name another label_column"
        )
    return torch.from_numpy(labels)


def check_classes(own: list[str], of_checkpoint: list[str]) -> None:
    """Compares the names of the data's classes with those of a checkpoint.

    Fewer are no mistake: integers are named up to the largest that occurs.

    Raises:
        UserError: Where they differ.
    """
    if own != of_checkpoint[: len(own)]:
        saved, found = _some(of_checkpoint), _some(own)
        raise UserError(f"the checkpoint's classes are {saved}, and the data's {found}: give data with the same")


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + ", ..." * (len(names) > 8)


def _are_words(feature: object) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string", "bool")


def _integers(dataset: datasets.Dataset, column: str) -> np.ndarray:
    labels = np.asarray(dataset.with_format("numpy")[column][:])
    if labels.dtype.kind not in "iu" or labels.ndim > 1:
        raise UserError(
            f"label column {column!r} holds {dataset.features[column]}, not one integer or word in each row: name"
            " another label_column, or set data.problem_type to multilabel or regression"
        )
    return labels.astype(np.int64)
