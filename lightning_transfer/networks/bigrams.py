"""Embeddings of frequent pairs of neighbouring tokens."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_NO_PAIR = torch.iinfo(torch.int64).max


class BigramEmbedding(nn.Embedding):
    """Embeds tokens, and adds a second embedding where a token and the one before it are a frequent pair.

    :meth:`fit` learns which pairs are frequent, for example "not good", and keeps them in a buffer. Before that there
    are no pairs. The embeddings of pairs start at zero, so the network starts as one without them. Rare pairs have no
    embedding: a network would learn a pair that occurs in one document by heart, which helps with no other document.

    Args:
        token_weight: float [vocabulary_size, embedding_size], the embeddings of the tokens to start from.
        count: Maximum number of pairs.
        dropout: Probability of zeroing the embedding of a pair in training.
    """

    pairs: Tensor
    bound_to_vocabulary = ("pairs", "pair_weight")  # these have no meaning in another vocabulary

    def __init__(self, token_weight: Tensor, count: int, dropout: float = 0.0) -> None:
        tokens, features = token_weight.shape
        super().__init__(tokens, features, _weight=token_weight)
        self.dropout = dropout
        # The numbers of the pairs, ascending. _NO_PAIR, which no pair reaches, fills the places that are left.
        self.register_buffer("pairs", torch.full((count,), _NO_PAIR))
        self.pair_weight = nn.Parameter(torch.zeros(count, self.embedding_dim))

    @property
    def is_fitted(self) -> bool:
        """Whether the frequent pairs are known."""
        return bool(self.pairs[0] != _NO_PAIR)

    def fit(self, token_ids: Tensor) -> None:
        """Finds the most frequent pairs.

        Args:
            token_ids: int64 [tokens], training documents one after the other. Token 0 is never part of a pair.
        """
        before, after = token_ids[:-1], token_ids[1:]
        numbers = self._numbers(before, after)[(before != 0) & (after != 0)]
        found, counts = torch.unique(numbers, return_counts=True)
        frequent = found[counts.argsort(descending=True, stable=True)[: len(self.pairs)]].sort().values
        self.pairs[: len(frequent)] = frequent

    def forward(self, token_ids: Tensor) -> Tensor:
        """Embeds documents, read from their start, together with their pairs.

        Args:
            token_ids: int64 [time, batch].

        Returns:
            float [time, batch, embedding_size].
        """
        numbers = self._numbers(F.pad(token_ids[:-1], (0, 0, 1, 0)), token_ids)
        rows = torch.searchsorted(self.pairs, numbers).clamp(max=len(self.pairs) - 1)
        share = (self.pairs[rows] == numbers).to(self.pair_weight.dtype)
        if self.training and self.dropout:
            share = share * (torch.rand_like(share) >= self.dropout) / (1 - self.dropout)
        pairs = F.embedding(rows, self.pair_weight, sparse=self.sparse)
        return super().forward(token_ids) + pairs * share.unsqueeze(2)

    def _numbers(self, before: Tensor, after: Tensor) -> Tensor:
        return before * self.num_embeddings + after
