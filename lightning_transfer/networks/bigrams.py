"""Embeddings of frequent pairs of neighbouring tokens."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_NO_PAIR = torch.iinfo(torch.int64).max


class BigramEmbedding(nn.Module):
    """Embeds each token together with the one before it, where the two are a frequent pair: "not good".

    Which pairs are frequent is learned by :meth:`fit` and stays in a buffer; until then there are none. All rows start
    at zero, so the network starts as one without them. Only frequent pairs: what stands in one document alone is
    learned by heart and helps with no other.

    Args:
        count: Pairs at most.
        vocabulary_size: Number of token ids.
        embedding_size: Features of a pair.
        dropout: Probability of dropping a pair, in place, in training.
    """

    pairs: Tensor
    bound_to_vocabulary = True  # its tensors mean nothing in another one

    def __init__(self, count: int, vocabulary_size: int, embedding_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.dropout = dropout
        # Rising numbers of pairs; what is never reached stands for those that were not found.
        self.register_buffer("pairs", torch.full((count,), _NO_PAIR))
        # No nn.Embedding: a row does not stand for a token, and is not moved as one from one vocabulary to another.
        self.weight = nn.Parameter(torch.zeros(count, embedding_size))

    @property
    def is_fitted(self) -> bool:
        """Whether the frequent pairs are known."""
        return bool(self.pairs[0] != _NO_PAIR)

    def fit(self, token_ids: Tensor) -> None:
        """Finds the most frequent pairs.

        Args:
            token_ids: int64 [tokens], training documents one after the other; 0 is in no pair.
        """
        before, after = token_ids[:-1], token_ids[1:]
        numbers = self._numbers(before, after)[(before != 0) & (after != 0)]
        found, counts = torch.unique(numbers, return_counts=True)
        frequent = found[counts.argsort(descending=True, stable=True)[: len(self.pairs)]].sort().values
        self.pairs[: len(frequent)] = frequent

    def forward(self, token_ids: Tensor) -> Tensor:
        """Embeds the pairs of documents from their start.

        Args:
            token_ids: int64 [time, batch].

        Returns:
            float [time, batch, embedding_size]: of each token and the one before it, zeros where they are no pair.
        """
        numbers = self._numbers(F.pad(token_ids[:-1], (0, 0, 1, 0)), token_ids)
        rows = torch.searchsorted(self.pairs, numbers).clamp(max=len(self.pairs) - 1)
        weight = (self.pairs[rows] == numbers).to(self.weight.dtype)
        if self.training and self.dropout:
            weight = weight * (torch.rand_like(weight) >= self.dropout) / (1 - self.dropout)
        return F.embedding(rows, self.weight) * weight.unsqueeze(2)

    def _numbers(self, before: Tensor, after: Tensor) -> Tensor:
        return before * self.vocabulary_size + after
