"""The LSTM classifier of documents."""

from typing import Literal

import torch
from torch import Tensor, nn

from lightning_transfer.errors import UserError
from lightning_transfer.keywords import Keywords
from lightning_transfer.networks.bigrams import BigramEmbedding
from lightning_transfer.networks.lstm_encoder import (
    BareEncoderOptions,
    LSTMEncoder,
    require_probabilities,
    require_sizes,
)
from lightning_transfer.networks.lstm_layer import reversed_within_length, take_steps

_BIGRAM_DOCUMENTS = 100_000  # enough to know which pairs of tokens are frequent

Pooling = Literal["last", "max", "mean", "all"]


class LSTMClassifier(LSTMEncoder):
    """Classifies documents of any length by an embedding, LSTM layers, pooling over time and a head.

    Args:
        vocabulary_size: Number of token ids; follows from the data on the command line.
        num_classes: Number of classes; follows from the data on the command line.
        pooling: How the head sees the last layer's states: as the ``last`` one (each direction's state after the whole
            document), as their ``max`` or ``mean`` over time, or as ``all`` three side by side (Howard & Ruder, 2018).
        dropout: Probability of dropping a feature between LSTM layers and before the head.
        single_logit: Whether two classes share one logit, for the loss binary_cross_entropy.
        direction: ``backward`` reads each document from its end, for an encoder that was pretrained that way. A token 0
            at the start, which separates documents in a language model's streams, is still read first.
        gradient_tokens: Number of time steps at the end of a batch that are trained through; all if not given. Earlier
            steps are read without gradients; their last state starts the later part, and the pooling sees all states.
            Dropout is drawn anew for the later part.
        bigrams: Number of most frequent pairs of neighbouring training tokens that have an embedding of their own. It
            is added to that of the pair's second token. The pairs are found before the first step of a fit, unless
            weights were loaded; elsewhere call ``fit_to_data``.
        bigram_dropout: Probability of zeroing the embedding of a pair in training.
        sparse_gradients: Whether the gradients of the embeddings hold only the rows of a batch's tokens and pairs. A
            step then costs the same with a vocabulary of any size. It needs an optimizer that takes such gradients:
            ``lightning_transfer.LazyAdam``, or ``torch.optim.SGD`` without weight decay.

    Raises:
        UserError: For sizes below 1, probabilities outside 0 to below 1, one logit for more than two classes, and
            ``gradient_tokens`` with both directions or with ``bigrams``.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_classes: int = 2,
        pooling: Pooling = "last",
        dropout: float = 0.0,
        single_logit: bool = False,
        direction: Literal["forward", "backward"] = "forward",
        gradient_tokens: int | None = None,
        bigrams: int = 0,
        bigram_dropout: float = 0.0,
        sparse_gradients: bool = False,
        **kwargs: Keywords[BareEncoderOptions],
    ) -> None:
        super().__init__(vocabulary_size, dropout=dropout, **kwargs)
        if single_logit and num_classes != 2:
            raise UserError(f"network.single_logit needs 2 classes, and there are {num_classes}")
        if gradient_tokens is not None:
            require_sizes(gradient_tokens=gradient_tokens)
            if self.state_size != self.output_size:
                raise UserError("network.gradient_tokens needs one direction: set network.bidirectional to false")
            if bigrams:
                raise UserError("network.gradient_tokens and network.bigrams do not go together: leave one out")
        require_probabilities(bigram_dropout=bigram_dropout)
        if bigrams < 0:
            raise UserError(f"network.bigrams is {bigrams}: expected 0 or more")
        if bigrams:
            self.embedding = BigramEmbedding(self.embedding.weight, bigrams, bigram_dropout)
        self.embedding.sparse = sparse_gradients
        self.pooling = pooling
        self.direction = direction
        self.gradient_tokens = gradient_tokens
        self.dropout = nn.Dropout(dropout)
        features = self.state_size * (3 if pooling == "all" else 1)
        self.head = nn.Linear(features, 1 if single_logit else num_classes)

    @property
    def sample_size(self) -> int:
        """Number of training documents that ``fit_to_data`` needs; 0 if no pairs are left to find."""
        needs_pairs = isinstance(self.embedding, BigramEmbedding) and not self.embedding.is_fitted
        return _BIGRAM_DOCUMENTS if needs_pairs else 0

    def fit_to_data(self, token_ids: Tensor) -> None:
        """Finds the frequent pairs of tokens.

        Args:
            token_ids: int64 [tokens], training documents one after the other. Token 0, for padding and for what is
                unknown, is never part of a pair.
        """
        assert isinstance(self.embedding, BigramEmbedding)
        self.embedding.fit(token_ids.flip(0) if self.direction == "backward" else token_ids)

    def forward(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        """Computes the logits; padding never changes them.

        Args:
            token_ids: int64 [batch, time], right-padded with any token.
            lengths: int64 [batch], from 1 to time.

        Returns:
            float [batch, num_classes], or [batch, 1] with ``single_logit``.
        """
        # Transposing the ids is cheap, transposing the embedded tokens is not.
        time = token_ids.shape[1]
        steps = self.in_reading_order(token_ids.t(), token_ids, lengths)
        reversed_steps = reversed_within_length(lengths, time)
        if self.training and self.gradient_tokens is not None and time > self.gradient_tokens:
            with torch.no_grad():
                early, state = self.encode(steps[: -self.gradient_tokens])
            late, _ = self.encode(steps[-self.gradient_tokens :], state=state)
            states = torch.cat([early, late])
        else:
            states, _ = self.encode(steps, reversed_steps)
        logits: Tensor = self.head(self.dropout(self._pool(states, lengths)))
        return logits

    def token_states(self, token_ids: Tensor) -> Tensor:
        """Computes the state after each token of a stream, as a language model needs it.

        Args:
            token_ids: int64 [time, batch], in the order in which the network reads.

        Returns:
            float [time, batch, token_features].
        """
        return self.encode(token_ids)[0]

    @property
    def token_features(self) -> int:
        """Features of the state after each token."""
        return self.state_size

    @property
    def token_embeddings(self) -> Tensor:
        """The embeddings of the tokens, float [vocabulary_size, embedding_size]."""
        return self.embedding.weight

    def in_reading_order(self, steps: Tensor, token_ids: Tensor, lengths: Tensor) -> Tensor:
        """Puts time steps into the order in which the network reads them; a second call restores their order.

        Args:
            steps: [time, batch, ...], values that belong to the tokens.
            token_ids: int64 [batch, time].
            lengths: int64 [batch].
        """
        if self.direction == "forward":
            return steps
        starts = (token_ids[:, 0] == 0).long()
        return take_steps(steps, reversed_within_length(lengths, steps.shape[0], kept=starts))

    def _pool(self, states: Tensor, lengths: Tensor) -> Tensor:
        pooled = []
        if self.pooling in ("last", "all"):
            pooled.append(self._last(states, lengths))
        is_padding = torch.arange(states.shape[0], device=lengths.device).unsqueeze(1) >= lengths
        if self.pooling in ("max", "all"):
            pooled.append(states.masked_fill(is_padding.unsqueeze(2), float("-inf")).amax(0))
        if self.pooling in ("mean", "all"):
            pooled.append(states.masked_fill(is_padding.unsqueeze(2), 0).sum(0) / lengths.unsqueeze(1))
        return torch.cat(pooled, 1)

    def _last(self, states: Tensor, lengths: Tensor) -> Tensor:
        """Takes the forward direction's state at the last token, and the backward one's at the first."""
        ends = states[lengths - 1, torch.arange(lengths.shape[0], device=lengths.device)]
        return torch.cat([ends[:, : self.output_size], states[0, :, self.output_size :]], 1)
