"""Loads whole batches by row number, in an order that is a function of the seed and the epoch.

The loader replaces ``DataLoader`` where the data is an array in memory. It needs no worker processes and no Python for
each example. Its place in the epoch is in every checkpoint, as Lightning saves loaders that have ``state_dict``. A run
that resumes in mid-epoch therefore sees each remaining batch once.
"""

import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from lightning_transfer.data.balanced_sampling import EpochOrder
from lightning_transfer.errors import UserError

Batches = Sequence[np.ndarray]
EpochBatches = Callable[[int], Batches]  # the batches of an epoch, counted from 0, as row numbers


class BatchLoader:
    """Iterates over the batches of an epoch; each rank iterates over its own share.

    Args:
        fetch: Function that makes a batch from row numbers, int64 [batch].
        batches: Function from an epoch, counted from 0, to its batches as row numbers. Every epoch has equally many.
        names: What each row is called; its number if not given.
    """

    def __init__(
        self, fetch: Callable[[np.ndarray], Any], batches: EpochBatches, names: Sequence[str | int] | None = None
    ) -> None:
        self.fetch = fetch
        self.batches = batches
        self.row_names = names
        # Lightning looks for these attributes of a DataLoader: it calls sampler.set_epoch at the start of an epoch.
        self.sampler, self.batch_sampler = self, None
        self._epoch = 0
        self._batches_left: Iterator[np.ndarray] | None = None  # in this epoch; None before the first epoch
        self._resume_at = (0, 0)  # epoch and position
        self._length = len(batches(0))

    def __len__(self) -> int:
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch whose batches the next iteration gives."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        # Lightning calls iter() before set_epoch(), so the epoch's batches are made at the first next(), after both.
        return itertools.chain.from_iterable(self._rest_of_epoch())

    def _rest_of_epoch(self) -> Iterator[Iterator[Any]]:
        epoch, position = self._resume_at
        batches = self.batches(self._epoch)[position if epoch == self._epoch else 0 :]
        self._batches_left = iter(list(batches))
        yield map(self.fetch, self._batches_left)

    def rows(self, batches: int) -> Tensor:
        """Returns the rows of the first batches of an evaluation: int64 [rows], ascending."""
        return self._rows_as_read(batches).sort().values

    def names(self, batches: int) -> list[str | int]:
        """Returns what the rows of the first batches of an evaluation are called, in their order."""
        rows: list[int] = self.rows(batches).tolist()
        return [*rows] if self.row_names is None else [self.row_names[row] for row in rows]

    def in_order(self, parts: Sequence[Tensor]) -> Tensor:
        """Joins the results of the first batches of an evaluation in the order of their rows.

        The batches may have another order, as texts are read by length.

        Args:
            parts: One tensor for each batch, with a result for each of its rows.
        """
        return torch.cat(list(parts))[self._rows_as_read(len(parts)).argsort()]

    def _rows_as_read(self, batches: int) -> Tensor:
        return torch.from_numpy(np.concatenate(self.batches(0)[:batches]))

    def state_dict(self) -> dict[str, int]:
        """Returns the place in the training set: the epoch, and the number of its batches already given."""
        left = self._length if self._batches_left is None else operator.length_hint(self._batches_left)
        return {"epoch": self._epoch, "position": self._length - left}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Makes the iteration over the saved epoch continue from the saved place; an empty state means the start."""
        self._resume_at = (state.get("epoch", 0), state.get("position", 0))


def shuffled_batches(
    rows: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    order: EpochOrder | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> EpochBatches:
    """Makes training batches in a new random order each epoch, alike on any number of ranks.

    Each epoch leaves out the rows that do not fill a last batch. A training set smaller than ``batch_size`` is one
    batch.

    Args:
        rows: int64 [rows], the rows to draw from.
        batch_size: Examples in a batch over all ranks together.
        seed: Another seed gives another order.
        order: What draws the rows of an epoch by its generator; each row once if not given.
        rank: Index of the share of each batch to give.
        world_size: Number of shares.

    Returns:
        A function from the epoch to its batches.

    Raises:
        UserError: If the ranks cannot have equal shares, which DDP's mean over ranks needs.
    """
    batch_size = min(batch_size, len(rows))
    if batch_size % world_size:
        raise UserError(f"a batch of {batch_size} examples cannot be shared equally by {world_size} processes")
    count = len(rows) // batch_size

    def batches(epoch: int) -> Batches:
        generator = np.random.default_rng([seed, epoch])
        drawn = generator.permutation(rows) if order is None else order(generator)
        return [batch[rank::world_size] for batch in drawn[: count * batch_size].reshape(count, batch_size)]

    return batches


def ordered_batches(
    rows: np.ndarray, *, batch_size: int, rank: int = 0, world_size: int = 1, equal_counts: bool = False
) -> EpochBatches:
    """Makes evaluation batches that have every row once, in order, over all ranks. No row is padded or repeated.

    Args:
        rows: int64 [rows].
        batch_size: Maximum number of examples in a batch.
        rank: Index of the share of the batches to give.
        world_size: Number of shares.
        equal_counts: Whether all ranks must have equally many batches; see :func:`equally_many`.

    Returns:
        A function from the epoch to its batches.

    Raises:
        UserError: If there are fewer rows than ranks.
    """
    size = largest_batch(len(rows), batch_size, world_size)
    chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
    batches: Batches = equally_many(chunks, world_size) if equal_counts else chunks
    # Each rank takes whole batches instead of a share of each, because the last digit of a result depends on its batch.
    return lambda epoch: batches[rank::world_size]


def equally_many(batches: Batches, world_size: int) -> Batches:
    """Cuts the largest batches in two until all ranks have equally many, for passes that they must make together.

    The results for the rows of those few batches may differ in the last digit from those of one process. If no batch
    is left to cut, neighbouring batches are joined instead.

    Args:
        batches: int64 [rows] each, together at least one row for each rank.
        world_size: Number of ranks.

    Returns:
        The new batches, whose number is a multiple of ``world_size``.
    """
    sizes, rows = [len(batch) for batch in batches], np.concatenate(batches)
    count = min(-(-len(sizes) // world_size), len(rows) // world_size) * world_size
    while len(sizes) < count:
        place = sizes.index(max(sizes))
        sizes[place : place + 1] = [sizes[place] - sizes[place] // 2, sizes[place] // 2]
    while len(sizes) > count:  # joins the last ones first, because the longest texts come first
        place = min(range(len(sizes) - 1), key=lambda place: (sizes[place] + sizes[place + 1], -place))
        sizes[place : place + 2] = [sizes[place] + sizes[place + 1]]
    return np.split(rows, np.cumsum(sizes)[:-1])


def training_loader(
    fetch: Callable[[np.ndarray], Any], batches: EpochBatches, trainer: L.Trainer | None, resume_at: dict[str, int]
) -> BatchLoader:
    """Makes the loader of a training set.

    Args:
        fetch: See :class:`BatchLoader`.
        batches: See :class:`BatchLoader`. With ``trainer.overfit_batches``, every epoch has the first one's batches.
        trainer: The trainer that will use the loader, if known.
        resume_at: The saved place to continue from; empty at the start.
    """
    overfits = trainer is not None and trainer.overfit_batches  # type: ignore[attr-defined]
    loader = BatchLoader(fetch, (lambda epoch: batches(0)) if overfits else batches)
    loader.load_state_dict(resume_at)
    return loader


def largest_batch(count: int, batch_size: int, world_size: int) -> int:
    """Returns the largest size of evaluation batches at which every rank has a batch.

    Raises:
        UserError: For fewer examples than ranks, as the others would wait for a rank without a batch.
    """
    if count < world_size:
        raise UserError(f"{count} examples cannot be evaluated by {world_size} processes: choose fewer trainer.devices")
    return min(batch_size, max(1, count // world_size))
