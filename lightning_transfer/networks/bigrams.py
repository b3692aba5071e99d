"""Embeddings of pairs of neighbouring tokens, by hashing."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Odd and far apart, so that pairs of small ids spread over all buckets.
_FACTORS = 1_000_003, 7_919


class BigramEmbedding(nn.Module):
    """Embeds each token together with the one before it: "not good" is more than "not" and "good".

    Pairs share a table of fixed size, each at the row that its hash names; a collision costs little where there are
    as many buckets as frequent pairs. All rows start at zero, so the network starts as one without them.

    Args:
        buckets: Rows of the table.
        embedding_size: Features of a pair.
        dropout: Probability of dropping a pair, in place, in training.

    Source:
        Joulin et al., Bag of tricks for efficient text classification, 2017.
    """

    def __init__(self, buckets: int, embedding_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        # No nn.Embedding: a row does not stand for a token, and is not moved as one from one vocabulary to another.
        self.weight = nn.Parameter(torch.zeros(buckets, embedding_size))
        self.dropout = dropout

    def forward(self, token_ids: Tensor) -> Tensor:
        """Embeds the pairs of documents from their start.

        Args:
            token_ids: int64 [time, batch].

        Returns:
            float [time, batch, embedding_size], of each token and the one before it; 0 is before the first.
        """
        before = F.pad(token_ids[:-1], (0, 0, 1, 0))
        rows = (before * _FACTORS[0] ^ token_ids * _FACTORS[1]) % len(self.weight)
        embedded = F.embedding(rows, self.weight)
        if not self.training or not self.dropout:
            return embedded
        keep = torch.rand(rows.shape, device=rows.device) >= self.dropout
        return embedded * (keep / (1 - self.dropout)).unsqueeze(2).to(embedded.dtype)
