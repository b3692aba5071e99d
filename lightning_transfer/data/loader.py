"""Whole batches by index, in an order that is a function of the seed and the epoch.

A stand-in for ``DataLoader`` where the data is an array in memory: no worker processes, no per-example Python. Its
place in the epoch is in every checkpoint (Lightning saves loaders that have ``state_dict``), so that a run resumed in
mid-epoch sees the batches that were still to come, each once.
"""

import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor

from lightning_transfer.errors import UserError

Batches = Sequence[np.ndarray]
EpochBatches = Callable[[int], Batches]  # the batches of an epoch, counted from 0, as row numbers


class BatchLoader:
    """Iterates over the batches of an epoch, on each rank over its share.

    Args:
        fetch: Makes a batch from row numbers, int64 [batch].
        batches: Gives the batches of an epoch, counted from 0, as row numbers. Every epoch has the same count.
    """

    def __init__(self, fetch: Callable[[np.ndarray], Any], batches: EpochBatches) -> None:
        self.fetch = fetch
        self.batches = batches
        # Attributes of a DataLoader that Lightning looks for: it calls sampler.set_epoch at the start of an epoch.
        self.sampler, self.batch_sampler = self, None
        self._epoch = 0
        self._batches_left: Iterator[np.ndarray] | None = None  # of this epoch; None before the first
        self._resume_at = (0, 0)  # epoch and position
        self._length = len(batches(0))

    def __len__(self) -> int:
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order comes next."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        # Lightning calls iter() before set_epoch(): the epoch's batches are asked for at the first next(), after both.
        return itertools.chain.from_iterable(self._rest_of_epoch())

    def _rest_of_epoch(self) -> Iterator[Iterator[Any]]:
        epoch, position = self._resume_at
        batches = self.batches(self._epoch)[position if epoch == self._epoch else 0 :]
        self._batches_left = iter(list(batches))
        yield map(self.fetch, self._batches_left)

    def rows(self, batches: int) -> Tensor:
        """Gives the rows of the first batches of an evaluation: int64 [rows], rising."""
        return self._rows_as_read(batches).sort().values

    def in_order(self, parts: Sequence[Tensor]) -> Tensor:
        """Joins what was computed of the first batches of an evaluation in the order of their rows.

        Texts are read by length.
        """
        return torch.cat(list(parts))[self._rows_as_read(len(parts)).argsort()]

    def _rows_as_read(self, batches: int) -> Tensor:
        return torch.from_numpy(np.concatenate(self.batches(0)[:batches]))

    def state_dict(self) -> dict[str, int]:
        """The place in the training set: the epoch and the number of its batches handed out."""
        left = self._length if self._batches_left is None else operator.length_hint(self._batches_left)
        return {"epoch": self._epoch, "position": self._length - left}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Makes the iteration over the saved epoch go on from the saved place; an empty state means the start."""
        self._resume_at = (state.get("epoch", 0), state.get("position", 0))


def shuffled_batches(
    rows: np.ndarray, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
) -> EpochBatches:
    """Whole training batches in a new random order each epoch, the same on any number of ranks.

    A ragged remainder is left for another epoch; a training set smaller than ``batch_size`` is one batch.

    Args:
        rows: int64 [rows], what to draw from.
        batch_size: Examples in a batch over all ranks together.
        seed: Another seed gives another order.
        rank: Which share of each batch to give.
        world_size: The number of shares.

    Raises:
        UserError: Where the ranks cannot have equal shares, which DDP's mean over ranks needs.
    """
    batch_size = min(batch_size, len(rows))
    if batch_size % world_size:
        raise UserError(f"a batch of {batch_size} examples cannot be shared equally by {world_size} processes")
    count = len(rows) // batch_size

    def batches(epoch: int) -> Batches:
        order = np.random.default_rng([seed, epoch]).permutation(rows)
        return [batch[rank::world_size] for batch in order[: count * batch_size].reshape(count, batch_size)]

    return batches


def ordered_batches(
    rows: np.ndarray, *, batch_size: int, rank: int = 0, world_size: int = 1, equal_counts: bool = False
) -> EpochBatches:
    """Every row once, in order, over all ranks together: for evaluation. Nothing is padded or repeated.

    Args:
        rows: int64 [rows].
        batch_size: Examples in a batch at most.
        rank: Which share of the batches to give.
        world_size: The number of shares.
        equal_counts: Whether every rank must have as many batches; see :func:`equally_many`.

    Raises:
        UserError: Where there are fewer rows than ranks.
    """
    size = largest_batch(len(rows), batch_size, world_size)
    chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
    batches: Batches = equally_many(chunks, world_size) if equal_counts else chunks
    # Whole batches, not a share of each: what is computed of a row, to the last digit, depends on its batch.
    return lambda epoch: batches[rank::world_size]


def equally_many(batches: Batches, world_size: int) -> Batches:
    """Cuts the largest batches in two until every rank has as many: for passes that all ranks must make together.

    What is computed of the rows of those few batches may differ in the last digit from what one process computes.
    Where there is nothing left to cut, batches of one row are joined to two.

    Args:
        batches: int64 [rows] each, together at least one row for each rank.
        world_size: The number of ranks.
    """
    sizes, rows = [len(batch) for batch in batches], np.concatenate(batches)
    count = min(-(-len(sizes) // world_size), len(rows) // world_size) * world_size
    while len(sizes) < count:
        place = sizes.index(max(sizes))
        sizes[place : place + 1] = [sizes[place] - sizes[place] // 2, sizes[place] // 2]
    while len(sizes) > count:  # the last ones first: the longest texts come first
        place = min(range(len(sizes) - 1), key=lambda place: (sizes[place] + sizes[place + 1], -place))
        sizes[place : place + 2] = [sizes[place] + sizes[place + 1]]
    return np.split(rows, np.cumsum(sizes)[:-1])


def training_loader(
    fetch: Callable[[np.ndarray], Any], batches: EpochBatches, trainer: L.Trainer | None, resume_at: dict[str, int]
) -> BatchLoader:
    """Makes the loader of a training.

    Args:
        fetch: As of :class:`BatchLoader`.
        batches: Likewise; those of the first epoch serve for all where ``trainer.overfit_batches`` is set.
        trainer: Will train, if one is known.
        resume_at: The saved place to go on from; empty at the start.
    """
    overfits = trainer is not None and trainer.overfit_batches  # type: ignore[attr-defined]
    loader = BatchLoader(fetch, (lambda epoch: batches(0)) if overfits else batches)
    loader.load_state_dict(resume_at)
    return loader


def must_pass_together(trainer: L.Trainer | None) -> bool:
    """Whether a rank can only make a pass together with all others, which hold parts of the parameters."""
    divided = DeepSpeedStrategy | FSDPStrategy | ModelParallelStrategy
    return trainer is not None and isinstance(trainer.strategy, divided)


def largest_batch(count: int, batch_size: int, world_size: int) -> int:
    """Gives the size of evaluation batches with which every rank has one.

    Raises:
        UserError: Where there are fewer examples than ranks: a rank without a batch would leave the others waiting.
    """
    if count < world_size:
        raise UserError(f"{count} examples cannot be evaluated by {world_size} processes: choose fewer trainer.devices")
    return min(batch_size, max(1, count // world_size))
