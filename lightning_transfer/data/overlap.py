"""Counts rows that are equal byte for byte: in two splits, or in one split with different labels."""

from typing import Literal, NamedTuple

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from lightning_transfer.errors import UserError

# This much from the middle of each row is compared first: a page of a file, and all of a small image or text.
_SAMPLE_BYTES = 4096
_SHOWN_ROWS = 4

Role = Literal["test", "validation"]  # what a split serves


class Rows(NamedTuple):
    """The content of many rows, one after the other.

    Attributes:
        values: Array of one dimension and any type; may be memory-mapped.
        offsets: int64 [rows + 1]: row i is ``values[offsets[i]:offsets[i + 1]]``.
    """

    values: np.ndarray
    offsets: np.ndarray

    def hashes(self, rows: np.ndarray, limit: int | None = None) -> np.ndarray:
        """Computes a hash of each row, int64 [rows]. Equal rows have equal hashes within this process.

        Args:
            rows: int64 [rows], the rows to hash.
            limit: Number of bytes from the middle of each row to look at; all if not given.
        """
        most = None if limit is None else limit // self.values.itemsize
        found = np.empty(len(rows), np.int64)
        for place, (start, stop) in enumerate(zip(self.offsets[rows], self.offsets[rows + 1], strict=True)):
            if most is not None and stop - start > most:
                start += (stop - start - most) // 2
                stop = start + most
            found[place] = hash(self.values[start:stop].tobytes())
        return found


def check_overlap(
    train_split: str,
    split: str,
    train: Rows,
    other: Rows,
    role: Role = "test",
    is_held_out: bool = False,
) -> int:
    """Counts the rows that a split shares with the training split, and warns if there are any.

    Args:
        train_split: The name of the training split.
        split: The name of the other split.
        train: The rows of the training split.
        other: The rows of the other split.
        role: What the other split serves.
        is_held_out: Whether it is a part of the training split that was held out.

    Returns:
        Number of rows of the other split that are also in the training split.

    Raises:
        UserError: If the splits are the same, or at least half of a test split is in the training split.
    """
    if split == train_split:
        raise UserError(f"data.{role}_split is {split}, the split to train on: expected another one")
    count, total = count_shared(train, other), len(other.offsets) - 1
    found = f"{count} of {total} examples of data.{role}_split {split} are in {train_split} too"
    if count and 2 * count >= total and role == "test" and not is_held_out:
        raise UserError(f"{found}: expected a split that was not trained on")
    if count:
        way_out = "; data.group_column can keep them on one side" if is_held_out else ""
        share = 100 * count / total
        share_in_words = f"{share:.0f} %" if share >= 10 else f"{share:.2g} %"
        rank_zero_warn(f"{found} ({share_in_words}): the {role} rewards remembering them{way_out}")
    return count


def count_shared(train: Rows, test: Rows) -> int:
    """Counts the rows of a test set that are also in a training set.

    Args:
        train: The rows of the training set.
        test: The rows of the test set.
    """
    kept = [np.arange(len(rows.offsets) - 1) for rows in (train, test)]
    for limit in (_SAMPLE_BYTES, None):  # the second pass reads whole rows, but only those that may be equal
        hashes = [rows.hashes(places, limit) for rows, places in zip((train, test), kept, strict=True)]
        shared = np.intersect1d(hashes[0], hashes[1])
        kept = [places[np.isin(found, shared)] for places, found in zip(kept, hashes, strict=True)]
    return len(kept[1])


def count_contradictions(split: str, rows: Rows, labels: np.ndarray) -> int:
    """Counts rows that have the content of another one and another label, and warns if there are any.

    Args:
        split: The name of the split.
        rows: Its rows.
        labels: int64 [rows].
    """
    kept = np.arange(len(labels))
    for limit in (_SAMPLE_BYTES, None):
        _, group = np.unique(rows.hashes(kept, limit), return_inverse=True)
        highest, lowest = np.full((2, len(kept)), [[-1], [np.iinfo(np.int64).max]])
        np.maximum.at(highest, group, labels[kept])
        np.minimum.at(lowest, group, labels[kept])
        kept = kept[highest[group] != lowest[group]]
    if len(kept):
        some = ", ".join(map(str, kept[:_SHOWN_ROWS])) + ", ..." * (len(kept) > _SHOWN_ROWS)
        rank_zero_warn(
            f"{len(kept)} examples of {split} occur with different labels (rows {some}): no model fits them all"
        )
    return len(kept)
