"""Gives the batches of a loader of torch in an order that is known: which rows a batch has, and where a run goes on.

Torch's loaders draw their order anew whenever they are asked. A run that resumes within an epoch would see some
examples twice and others never, and nobody could say of which row a prediction is.
"""

import contextlib
import functools
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler

from lightning_transfer.data.loader import Batches, BatchLoader

# What a loader of torch is built from, beside its data set and its order.
_KEPT = (
    *("num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context"),
    *("prefetch_factor", "persistent_workers"),
)

_WORD_SECONDS = 1.0  # time that the word of a dead worker may take

Place = tuple[int, int, list[int]]  # of a batch: its epoch, its number and its rows


class OrdinaryLoader(BatchLoader):
    """Iterates over the batches of a loader of torch, whose rows are running indices into its data set.

    Where the loader shuffles, the order is a function of the seed and the epoch. So is what the data set draws by the
    generators of Python, numpy and torch, for each batch: with any number of workers, and after a resume.

    Args:
        loader: A loader that :func:`is_ordinary`.
        seed: Seed of the run. A generator that the loader was given counts by its own seed instead.
    """

    def __init__(self, loader: DataLoader[Any], seed: int) -> None:
        batch_sampler: Any = loader.batch_sampler
        self._is_shuffled = isinstance(loader.sampler, RandomSampler)
        generator: torch.Generator | None = getattr(loader.sampler, "generator", None)
        self._seed = seed if generator is None else generator.initial_seed()
        self._rows = len(loader.dataset)  # type: ignore[arg-type]
        self._batch_size, self._drop_last = batch_sampler.batch_size, batch_sampler.drop_last
        self._position = 0  # batches of this epoch that were given
        drawn = _Drawn(loader.dataset, self._seed)
        kept = {name: getattr(loader, name) for name in _KEPT}
        if loader.num_workers:
            kept["worker_init_fn"] = functools.partial(_begin_work, loader.worker_init_fn)
        rest: Any = _Rest(self._left, len(batch_sampler))
        self._loader: DataLoader[Any] = DataLoader(drawn, batch_sampler=rest, **kept)
        super().__init__(lambda rows: [loader.dataset[row] for row in rows.tolist()], self._batches_of)

    def _batches_of(self, epoch: int) -> Batches:
        rows = np.arange(self._rows)
        if self._is_shuffled:
            rows = np.random.default_rng([self._seed, epoch]).permutation(rows)
        whole = self._rows - self._rows % self._batch_size if self._drop_last else self._rows
        return [rows[start : start + self._batch_size] for start in range(0, whole, self._batch_size)]

    def _left(self) -> Iterator[Place]:
        for number, rows in enumerate(self.batches(self._epoch)[self._position :], self._position):
            yield self._epoch, number, rows.tolist()

    def _rest_of_epoch(self) -> Iterator[Iterator[Any]]:
        epoch, position = self._resume_at
        self._position = position if epoch == self._epoch else 0
        yield self._counted()

    def _counted(self) -> Iterator[Any]:
        try:
            for batch in self._loader:
                self._position += 1  # not when its rows are drawn: workers are ahead
                yield batch
        except (OSError, EOFError):
            if self._loader.num_workers:  # one may have died with a batch; torch is told so, and raises the cause
                time.sleep(_WORD_SECONDS)
            raise

    def state_dict(self) -> dict[str, int]:
        """Returns the place: the epoch, and the number of its batches already given."""
        return {"epoch": self._epoch, "position": self._position}


def is_ordinary(loader: object) -> bool:
    """Says whether a loader of torch takes each row of a data set once, in its order or shuffled, in batches.

    Loaders of streams, those that sample otherwise and subclasses with an iteration of their own are not ordinary.
    """
    return (
        isinstance(loader, DataLoader)
        and type(loader).__iter__ is DataLoader.__iter__
        and not isinstance(loader.dataset, IterableDataset)
        and type(loader.batch_sampler) is BatchSampler
        and (
            type(loader.sampler) is SequentialSampler
            or (
                type(loader.sampler) is RandomSampler
                and not loader.sampler.replacement
                and loader.sampler.num_samples == len(loader.dataset)  # type: ignore[arg-type]
            )
        )
    )


class _Rest:
    """The batches that are left of an epoch when torch's loader begins."""

    def __init__(self, left: Callable[[], Iterator[Place]], length: int) -> None:
        self._left, self._length = left, length

    def __iter__(self) -> Iterator[Place]:
        return self._left()

    def __len__(self) -> int:
        return self._length


class _Drawn(Dataset[Any]):
    """Takes the examples of a batch from a data set, which draws by the batch's place."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self._dataset, self._seed = dataset, seed

    def __getitems__(self, place: Place) -> list[Any]:
        """Takes the examples; torch calls this with what the batch sampler gives."""
        epoch, number, rows = place
        with _generators_at(hash((self._seed, epoch, number))):
            take_all = getattr(self._dataset, "__getitems__", None)
            return list(take_all(rows)) if take_all else [self._dataset[row] for row in rows]


def _begin_work(given: Callable[[int], None] | None, number: int) -> None:
    """Has a worker leave to its parent when it ends: the parent needs batches until the end of its step.

    A terminal or a scheduler sends the signals that ask to stop to all processes.
    """
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if hasattr(signal, "sigwaitinfo") and parent is not None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_for, args=(parent.pid,), daemon=True).start()
    if given is not None:
        given(number)


def _end_for(parent: int | None) -> None:
    """Ends this process when its parent sends SIGTERM, as torch does with a worker that hangs."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)


@contextlib.contextmanager
def _generators_at(seed: int) -> Iterator[None]:
    """Seeds the generators of the CPU, and gives them their states back."""
    # Lightning's isolate_rng does the same, but asks every GPU as well.
    of_python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        # Not torch.manual_seed: for each accelerator that is not in use it keeps every call, with its stack, for later.
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)
