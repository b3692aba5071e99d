"""Counts the examples of each class, and says before a training what is odd about them."""

import unicodedata
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_transfer.data.label_values import in_line, some_of
from lightning_transfer.errors import UserError

_MOST_COUNTS = 12  # classes whose counts are in one line


def count_classes(labels: Tensor, num_classes: int) -> np.ndarray:
    """Counts the examples of each class: int64 [classes].

    Args:
        labels: int64 [rows], or with several classes for an example float32 [rows, classes].
        num_classes: Number of classes.
    """
    if labels.ndim == 2:
        return labels.sum(0, dtype=torch.float64).long().numpy()
    return labels[labels >= 0].bincount(minlength=num_classes).numpy()


def counts_in_words(counts: np.ndarray, names: Sequence[str]) -> str:
    """Writes the examples of each class in a line, and those of many classes by the smallest and the largest."""
    if len(names) <= _MOST_COUNTS:
        shown = ", ".join(f"{in_line(name)} {count}" for name, count in zip(names, counts.tolist(), strict=True))
        return f"training examples by class: {shown}"
    fewest, most = int(counts.argmin()), int(counts.argmax())
    return (
        f"training examples by class: {len(names):,} classes, from {counts[fewest]:,} ({in_line(names[fewest])}) to"
        f" {counts[most]:,} ({in_line(names[most])})"
    )


def announce_classes(counts: np.ndarray, names: Sequence[str], split: str) -> None:
    """Says how many examples each class has, which have none, and which names may be of one class.

    Args:
        counts: int64 [classes], the examples that are trained on.
        names: The names of the classes.
        split: The name of their split.
    """
    rank_zero_info(counts_in_words(counts, names))
    missing = [names[place] for place in np.flatnonzero(counts == 0).tolist()]
    if missing:
        rank_zero_warn(
            f"split {split!r} has no example to train on of {len(missing)} of {len(names)} classes, which are never"
            f" learned: {some_of(missing)}"
        )
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(_folded(name), []).append(name)
    doubtful = [" and ".join(map(repr, spellings)) for spellings in alike.values() if len(spellings) > 1]
    if doubtful:
        rank_zero_warn(
            f"split {split!r} has classes whose names differ only in their writing, and are learned as different"
            f" classes: {some_of(doubtful)}; correct the data if they are one"
        )


def require_training_examples(train: Tensor, test: Tensor, names: Sequence[str], splits: tuple[str, str]) -> None:
    """Refuses a test split with classes that have no example in the training split.

    Args:
        train: The labels of the training split.
        test: The labels of the test split.
        names: The names of the classes.
        splits: The names of both splits.

    Raises:
        UserError: For classes that only the test split has.
    """
    of_test = count_classes(test, len(names))
    only_there = (of_test > 0) & (count_classes(train, len(names)) == 0)
    unknown = [names[place] for place in np.flatnonzero(only_there).tolist()]
    if unknown:
        raise UserError(
            f"split {splits[1]!r} has classes without an example in split {splits[0]!r}, {some_of(unknown)}: expected"
            " classes that can be learned; add examples, or leave the classes out"
        )


def _folded(name: str) -> str:
    """Writes names alike that people may mean as one: without capitals and ways to write blanks and numbers."""
    words = " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").split())
    try:
        return str(Decimal(words).normalize())
    except InvalidOperation:
        return words
