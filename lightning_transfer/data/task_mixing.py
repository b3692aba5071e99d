"""Decides which tasks a training step has: a share of the steps for each task, in an order by seed and epoch alone.

:class:`~lightning_transfer.data.loader.BatchLoader` iterates over the steps as over batches. A run that resumes in
mid-epoch therefore goes on with the same steps, and all ranks have the same tasks in each.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

from lightning_transfer.data.loader import EpochBatches
from lightning_transfer.errors import UserError

TaskMixing = Literal["proportional", "uniform", "temperature", "together"]
Step = list[tuple[int, np.ndarray]]  # the places of its tasks, each with the rows of its batch
EpochSteps = Callable[[int], Sequence[Step]]  # the steps of an epoch, counted from 0

_SALT = 2  # keeps the order of tasks apart from what else is drawn by seed and epoch


def shares_of_tasks(examples: Sequence[int], mixing: TaskMixing, temperature: float) -> np.ndarray:
    """Computes the share of the steps that each task is to have.

    Args:
        examples: Number of training examples of each task.
        mixing: The rule: ``proportional`` to the examples, ``uniform``, or ``temperature``, in between.
        temperature: The share is proportional to the examples to the power of 1 / temperature.

    Returns:
        float64 [tasks], which sum to 1.
    """
    exponent = {"proportional": 1.0, "temperature": 1 / temperature}.get(mixing, 0.0)
    weights = np.asarray(examples, np.float64) ** exponent
    shares: np.ndarray = weights / weights.sum()
    return shares


def steps_of_tasks(shares: np.ndarray, steps: int) -> np.ndarray:
    """Divides the steps of an epoch by the method of largest remainders, with one step at least for each task.

    Args:
        shares: float64 [tasks], which sum to 1.
        steps: Number of steps.

    Returns:
        int64 [tasks], which sum to ``steps``.

    Raises:
        UserError: For fewer steps than tasks.
    """
    if steps < len(shares):
        raise UserError(
            f"data.steps_per_epoch is {steps}: expected {len(shares)} or more, at least one for each task with examples"
            " of its own"
        )
    exact = shares * steps
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: steps - counts.sum()]] += 1
    counts = np.maximum(counts, 1)
    while counts.sum() > steps:
        counts[counts.argmax()] -= 1
    divided: np.ndarray = counts
    return divided


def mixed_steps(tasks: Sequence[EpochBatches], counts: np.ndarray, seed: int, together: bool = False) -> EpochSteps:
    """Makes the steps of an epoch from the batches of several tasks.

    A task's batches follow each other over the epochs of the training: those of its own first epoch, in an order of
    their own, then those of its second one. A small task is seen several times in an epoch of the training, and a large
    one goes on in the next.

    Args:
        tasks: The batches of each task, by its own epochs.
        counts: int64 [tasks], how many batches of each an epoch has.
        seed: Another seed gives another order of the tasks.
        together: Whether a step has a batch of every task, and not of one task; all counts are then equal.

    Returns:
        A function from the epoch to its steps.
    """
    lengths = [len(batches(0)) for batches in tasks]

    def steps(epoch: int) -> list[Step]:
        places = range(len(tasks))
        left = [_from(tasks[place], lengths[place], epoch * int(counts[place])) for place in places]
        if together:
            return [[(place, next(left[place])) for place in places] for _ in range(int(counts[0]))]
        order = np.random.default_rng([seed, epoch, _SALT]).permutation(np.repeat(places, counts))
        return [[(place, next(left[place]))] for place in order.tolist()]

    return steps


def _from(batches: EpochBatches, length: int, first: int) -> Iterator[np.ndarray]:
    """Gives a task's batches without an end, from one on."""
    epoch, position = divmod(first, length)
    while True:
        yield from batches(epoch)[position:]
        epoch, position = epoch + 1, 0
