"""Makes batches of texts of similar length, so that little of a batch is padding.

:class:`~lightning_transfer.data.loader.BatchLoader` iterates over the results of both functions. They depend on the
seed and the epoch alone, so they can be resumed, and they divide the rows between ranks.
"""

import numpy as np

from lightning_transfer.data.balanced_sampling import EpochOrder
from lightning_transfer.data.loader import Batches, EpochBatches, equally_many, largest_batch, shuffled_batches

# Lengths are changed by up to this share before they are sorted, so that the same rows do not meet in every epoch.
_LENGTH_NOISE = 0.01

# Batches of more documents than this are cut to a multiple of it. An LSTM in bfloat16 on a CPU (oneDNN's) reads 112
# documents five times as fast as 109, and from 32 to 128 a multiple of this was never slower.
_EVEN_SIZE = 8


def bucketed_batches(
    rows: np.ndarray,
    lengths: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    order: EpochOrder | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> EpochBatches:
    """Makes training batches of similar length, in a new random order each epoch, alike on any number of ranks.

    The rows of an epoch are those of :func:`~lightning_transfer.data.loader.shuffled_batches`. They are sorted by
    length with a little noise and cut into batches, and the batches are shuffled.

    Args:
        rows: int64 [rows], the rows to draw from.
        lengths: int64 [rows of the split], the tokens of each row, by row number.
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
    random_batches = shuffled_batches(rows, batch_size=batch_size, seed=seed, order=order)
    shuffled_batches(rows, batch_size=batch_size, seed=seed, world_size=world_size)  # refuses unequal shares

    def batches(epoch: int) -> Batches:
        random_rows = np.stack(random_batches(epoch))
        generator = np.random.default_rng([seed, epoch, 1])
        noise = generator.uniform(1 - _LENGTH_NOISE, 1 + _LENGTH_NOISE, random_rows.size)
        by_length = random_rows.ravel()[np.argsort(lengths[random_rows.ravel()] * noise, kind="stable")]
        return [batch[rank::world_size] for batch in generator.permutation(by_length.reshape(random_rows.shape))]

    return batches


def token_batches(
    rows: np.ndarray,
    lengths: np.ndarray,
    *,
    batch_size: int,
    batch_tokens: int,
    rank: int = 0,
    world_size: int = 1,
    equal_counts: bool = False,
) -> EpochBatches:
    """Makes evaluation batches that have every row once over all ranks, from the longest to the shortest.

    Args:
        rows: int64 [rows].
        lengths: int64 [rows of the split], the tokens of each row, by row number.
        batch_size: Maximum number of examples in a batch.
        batch_tokens: Maximum number of tokens in a batch, padding included. A longer row is a batch by itself.
        rank: Index of the share of the batches to give.
        world_size: Number of shares.
        equal_counts: Whether all ranks must have equally many batches; see
            :func:`~lightning_transfer.data.loader.equally_many`.

    Returns:
        A function from the epoch to its batches.

    Raises:
        UserError: If there are fewer rows than ranks.
    """
    size = largest_batch(len(rows), batch_size, world_size)
    # The longest rows come first, so that too little memory shows in the first batch.
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    chunks, start = [], 0
    while start < len(rows):
        count = int(min(size, max(1, batch_tokens // max(1, lengths[rows[start]]))))
        count -= count % _EVEN_SIZE if count > _EVEN_SIZE else 0
        chunks.append(rows[start : start + count])
        start += count
    batches: Batches = equally_many(chunks, world_size) if equal_counts else chunks
    return lambda epoch: batches[rank::world_size]
