"""The column of the labels, and the names of the classes."""

import datasets
import numpy as np
import torch
from torch import Tensor

from lightning_transfer.errors import UserError


def class_names(dataset: datasets.Dataset, column: str, split: str) -> list[str]:
    """Reads the names of class labels; integers are named by themselves, up to the largest.

    Args:
        dataset: The split that is trained on.
        column: The column of the labels.
        split: Its name.

    Raises:
        UserError: For a column that holds no integers, or none from 0 on.
    """
    feature = dataset.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    largest = int(_integers(dataset, column).max())
    if largest < 0:
        raise UserError(f"split {split!r} has no labels to train on: all are {largest} or less")
    return [str(label) for label in range(largest + 1)]


def read(dataset: datasets.Dataset, column: str, split: str, num_classes: int) -> Tensor:
    """Reads the labels of a split, int64 [rows], and checks that each names a class.

    Raises:
        UserError: For a column that holds no integers, and a label out of range.
    """
    labels = _integers(dataset, column)
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise UserError(
            f"label {labels[wrong[0]]} in row {wrong[0]} of split {split!r} is out of range:"
            f" expected 0 to {num_classes - 1}"
        )
    return torch.from_numpy(labels)


def check_classes(own: list[str], of_checkpoint: list[str]) -> None:
    """Compares the names of the data's classes with those of a checkpoint.

    Fewer are no mistake: integers are named up to the largest that occurs.

    Raises:
        UserError: Where they differ.
    """
    if own != of_checkpoint[: len(own)]:
        saved, found = (", ".join(names[:8]) + ", ..." * (len(names) > 8) for names in (of_checkpoint, own))
        raise UserError(f"the checkpoint's classes are {saved}, and the data's {found}: give data with the same")


def _integers(dataset: datasets.Dataset, column: str) -> np.ndarray:
    labels = np.asarray(dataset.with_format("numpy")[column][:])
    if labels.dtype.kind not in "iu" or labels.ndim > 1:
        raise UserError(
            f"label column {column!r} holds {dataset.features[column]}, not one integer in each row: name another"
            " label_column"
        )
    return labels.astype(np.int64)
