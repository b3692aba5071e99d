"""Batches of similar length, so that little of a batch is padding.

Both functions give what :class:`~lightning_transfer.data.loader.BatchLoader` iterates over: seeded, epoch-aware,
resumable, and shared out over ranks.
"""

import numpy as np

from lightning_transfer.data.loader import Batches, EpochBatches, equally_many, largest_batch, shuffled_batches

# Lengths are sorted as if they were off by up to this share: so the same rows do not meet again in every epoch.
_LENGTH_NOISE = 0.01

# An LSTM in bfloat16 on a CPU (oneDNN's) reads 112 documents five times as fast as 109, and none of 32 to 128 slower
# where they are a multiple of this.
_EVEN_SIZE = 8


def bucketed_batches(
    rows: np.ndarray, lengths: np.ndarray, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
) -> EpochBatches:
    """Whole training batches of similar length in a new random order each epoch, the same on any number of ranks.

    The rows of an epoch are those of :func:`~lightning_transfer.data.loader.shuffled_batches`, sorted by length with
    a little noise, cut into batches, and the batches shuffled.

    Args:
        rows: int64 [rows], what to draw from.
        lengths: int64 [rows of the split], the tokens of each row, by row number.
        batch_size: Examples in a batch over all ranks together.
        seed: Another seed gives another order.
        rank: Which share of each batch to give.
        world_size: The number of shares.

    Raises:
        UserError: Where the ranks cannot have equal shares, which DDP's mean over ranks needs.
    """
    random_batches = shuffled_batches(rows, batch_size=batch_size, seed=seed)
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
    """Every row once over all ranks together, from the longest to the shortest: for evaluation.

    Args:
        rows: int64 [rows].
        lengths: int64 [rows of the split], the tokens of each row, by row number.
        batch_size: Examples in a batch at most.
        batch_tokens: Tokens in a batch at most, padding included; a longer row is a batch by itself.
        rank: Which share of the batches to give.
        world_size: The number of shares.
        equal_counts: Whether every rank must have as many batches; see
            :func:`~lightning_transfer.data.loader.equally_many`.

    Raises:
        UserError: Where there are fewer rows than ranks.
    """
    size = largest_batch(len(rows), batch_size, world_size)
    # The longest first: where memory does not suffice, that shows in the first batch.
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    chunks, start = [], 0
    while start < len(rows):
        count = int(min(size, max(1, batch_tokens // max(1, lengths[rows[start]]))))
        count -= count % _EVEN_SIZE if count > _EVEN_SIZE else 0
        chunks.append(rows[start : start + count])
        start += count
    batches: Batches = equally_many(chunks, world_size) if equal_counts else chunks
    return lambda epoch: batches[rank::world_size]
