"""Treats training examples as private: draws each into each batch by a chance of its own, and measures nothing on them.

:class:`~lightning_transfer.privacy.private_classifier.PrivateClassifier` counts what the batches cost.
"""

import hashlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from lightning_transfer.data.loader import Batches, EpochBatches
from lightning_transfer.data.overlap import Role, Rows
from lightning_transfer.data.reading.split_words import parts_of
from lightning_transfer.data.splits import check_fractions
from lightning_transfer.errors import UserError

Made = TypeVar("Made", bound=tuple[Any, ...])
# What a record says of training examples beyond their number. A fingerprint tells whether a guess of all is right.
TELLING_FACTS = ("fingerprints", "training_examples_by_class", "left_out")


def sampling_rate(rows: int, batch_size: int) -> float:
    """Returns the chance of each row to be in a batch, by which ``batch_size`` are expected in it."""
    return min(1.0, batch_size / rows)


def poisson_batches(
    rows: np.ndarray, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
) -> EpochBatches:
    """Makes training batches of rows that are drawn independently, alike on any number of ranks.

    A batch may have any number of rows, also none. A row may come in several batches of an epoch, or in none. An epoch
    has as many batches as it has without this.

    Args:
        rows: int64 [rows], the rows to draw from.
        batch_size: Expected examples in a batch over all ranks together.
        seed: Decides the draws. Whoever knows it knows the batches.
        rank: Index of the share of each batch to give.
        world_size: Number of shares.

    Returns:
        A function from the epoch to its batches.
    """
    rate = sampling_rate(len(rows), batch_size)
    count = max(1, len(rows) // batch_size)

    def batches(epoch: int) -> Batches:
        generator = np.random.default_rng([seed, epoch])
        # A binomial number of rows, all sets of that size being equally likely: the same as a draw for each row.
        sizes = generator.binomial(len(rows), rate, count)
        drawn = [generator.choice(rows, size, replace=False, shuffle=False) for size in sizes]
        return [batch[rank::world_size] for batch in drawn]

    return batches


def divide_by_content(
    content: Rows, *, validation_fraction: float, train_fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Holds examples out by what each of them is, so that one example more changes the place of no other.

    Each is held out by a chance of its own, and of the rest each is trained on by a chance of its own. Both follow from
    a hash of the example and the seed, so equal examples stay together.

    Args:
        content: What each example is.
        validation_fraction: Chance to be held out, from 0 to below 1.
        train_fraction: Chance of the others to be trained on, above 0 and up to 1.
        seed: Another seed gives another division.

    Returns:
        The rows to train on and the rows to validate on: int64, ascending, disjoint.

    Raises:
        UserError: For values out of range, and where nothing is left to train on.
    """
    check_fractions(validation_fraction, train_fraction)
    values, bounds, key = content.values, content.offsets.tolist(), str(seed).encode()
    digests = [
        hashlib.blake2b(values[start:stop].tobytes(), digest_size=16, key=key).digest()
        for start, stop in pairwise(bounds)
    ]
    held, kept = (np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2) / 2**64).T
    is_held_out = held < validation_fraction
    train = np.flatnonzero(~is_held_out & (kept < train_fraction))
    if not len(train):
        raise UserError(
            f"data.train_fraction is {train_fraction}: expected more, as none of {len(digests)} private examples is"
            " left to train on"
        )
    return train, np.flatnonzero(is_held_out)


def taking_none(take: Callable[[np.ndarray], Made]) -> Callable[[np.ndarray], Made]:
    """Has what makes a batch of rows make one of no rows, too.

    Args:
        take: Makes a named tuple of tensors [batch, ...] from at least one row.
    """

    def take_any(rows: np.ndarray) -> Made:
        if len(rows):
            return take(rows)
        like = take(np.zeros(1, np.int64))
        return type(like)(*(field[:0] for field in like))

    return take_any


def refuse_what_tells(**given: object) -> None:
    """Refuses settings of data with which a private training would not be private.

    Args:
        given: Each by its name; it is allowed where it is None, False or 0.

    Raises:
        UserError: For the first one that is given.
    """
    for name, value in given.items():
        if value:
            raise UserError(
                f"data.{name} is {value}: expected none with data.private true, as it joins or counts private examples"
            )


def refuse_shared_rows(train_split: str, split: str, role: Role, names: Sequence[str] = ()) -> None:
    """Refuses a split that has private rows, as rows that are evaluated are measured without noise.

    Args:
        train_split: The split that is trained on.
        split: The other one.
        role: What the other one is for.
        names: The names of the splits that there are.

    Raises:
        UserError: If both are, or have parts of, one split.
    """
    private = {name for name, _ in parts_of(train_split, names)}
    if any(name in private for name, _ in parts_of(split, names)):
        raise UserError(
            f"data.{role}_split is {split}, the split to train on ({train_split}) or a part of it: expected another one"
            " with data.private true"
        )


def refuse_sample(private: bool) -> None:
    """Refuses to give training examples to what is not counted, such as the calibration of an export.

    Raises:
        UserError: If they are private.
    """
    if private:
        raise UserError(
            "data.private is true: expected no use of training examples beside a private training, whose count leaves"
            " it out; leave it off"
        )


def require_given(what: str, **given: object) -> None:
    """Refuses to measure on private examples what was not given.

    Args:
        what: The way out.
        given: Each setting by its name; None where it was not given.

    Raises:
        UserError: For the first one that was not.
    """
    for name, value in given.items():
        if value is None:
            raise UserError(
                f"data.{name} is null: expected a value with data.private true, as it would be measured on private"
                f" training examples; {what}"
            )
