"""Puts documents in a row, and cuts the stream into segments and these into batches."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_transfer.data.tokenizer import SEPARATOR_ID, Documents


class TokenBatch(NamedTuple):
    """A batch: the next segment of each stream.

    Attributes:
        token_ids: int64 [time, batch].
        labels: int64 [time * batch], the token after each. Where tokens are masked, each of these, and -100 for others.
    """

    token_ids: Tensor
    labels: Tensor

    @property
    def streams(self) -> int:
        """Number of streams."""
        return self.token_ids.shape[1]


def stream_of(
    documents: Documents, order: np.ndarray, before: Sequence[int] = (), after: Sequence[int] = (SEPARATOR_ID,)
) -> np.ndarray:
    """Puts documents one after the other, each between tokens that set it apart.

    Args:
        documents: All documents.
        order: int64, the documents to take, in this order.
        before: The tokens before each document.
        after: Those after each.

    Returns:
        int32 [tokens].
    """
    lengths = documents.lengths[order] + len(before) + len(after)
    ends = np.cumsum(lengths)
    # The distance of a token from the start of its document is the same in the stream and in documents.token_ids.
    source = np.repeat(documents.offsets[order] - (ends - lengths) - len(before), lengths)
    source += np.arange(len(source))
    stream = documents.token_ids.take(source, mode="clip")
    for place, token in enumerate(before):
        stream[ends - lengths + place] = token
    for place, token in enumerate(reversed(after), start=1):
        stream[ends - place] = token
    return stream


def longest_segment(segment_tokens: int) -> int:
    """Says how long a varied segment is at most: by five standard deviations more than a segment."""
    return segment_tokens + round(5 * min(5.0, segment_tokens / 10))


def segment_ends(tokens: int, segment_tokens: int, seed: int | None) -> list[int]:
    """Cuts a stream into segments.

    Args:
        tokens: The length of the stream.
        segment_tokens: The length of a segment.
        seed: Seed of varied lengths as in AWD-LSTM (Merity et al., 2018); None for equal lengths. One segment in twenty
            is half as long, and all vary with a standard deviation of a tenth of their length, 5 steps at most. None
            is longer than ``longest_segment`` says.

    Returns:
        The end of each segment; the last one ends at ``tokens``.
    """
    if seed is None:
        return [*range(segment_tokens, tokens, segment_tokens), tokens]
    generator = np.random.default_rng([seed, 2])
    ends = [0]
    while ends[-1] < tokens:
        mean = segment_tokens / (2 if generator.random() < 0.05 else 1)
        varied = max(5, round(generator.normal(mean, min(5.0, mean / 10))))
        ends.append(ends[-1] + min(varied, max(5, longest_segment(segment_tokens))))
    return [*ends[1:-1], tokens]


def make_batch(segment: np.ndarray) -> TokenBatch:
    """Makes a batch of a segment with one extra token, int32 [batch, time + 1], or [batch, time + 1, 2] with labels."""
    ids = torch.from_numpy(segment.swapaxes(0, 1).astype(np.int64))
    if ids.ndim == 3:
        return TokenBatch(ids[:-1, :, 0], ids[:-1, :, 1].flatten())
    return TokenBatch(ids[:-1], ids[1:].flatten())
