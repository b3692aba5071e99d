"""Recurrent networks for text."""

from typing import Literal

import torch
from torch import Tensor, nn

from lightning_transfer.errors import UserError

Pooling = Literal["last", "max", "mean", "all"]


class LSTMLayer(nn.Module):
    """One LSTM layer over right-padded sequences, forward or in both directions.

    The backward direction is a second LSTM over each sequence reversed within its own length, whose outputs are
    reversed back. On a CPU that gives what ``pack_padded_sequence`` gives several times as fast, and padding still
    never reaches an output before it.

    Args:
        input_size: Features of each time step.
        hidden_size: Units of each direction.
        bidirectional: Whether there is a backward direction.
    """

    def __init__(self, input_size: int, hidden_size: int, bidirectional: bool = False) -> None:
        super().__init__()
        self.forward_direction = nn.LSTM(input_size, hidden_size)
        self.backward_direction = nn.LSTM(input_size, hidden_size) if bidirectional else None

    def forward(self, inputs: Tensor, reversed_steps: Tensor) -> Tensor:
        """Computes the hidden states.

        Args:
            inputs: float [time, batch, input_size].
            reversed_steps: int64 [time * batch], see :func:`reversed_within_length`.

        Returns:
            float [time, batch, directions * hidden_size]; what stands at padded steps has no meaning.
        """
        states: Tensor = self.forward_direction(inputs)[0]
        if self.backward_direction is None:
            return states
        backward_states = self.backward_direction(_take_steps(inputs, reversed_steps))[0]
        return torch.cat([states, _take_steps(backward_states, reversed_steps)], 2)


class LSTMClassifier(nn.Module):
    """Embedding, LSTM layers, pooling over time and a linear head, for documents of any length.

    Dropout zeroes what it names during training only and scales the rest up.

    Args:
        vocabulary_size: Number of token ids; follows from the data on the command line.
        num_classes: Number of classes; follows from the data on the command line.
        embedding_size: Features of each token.
        hidden_size: Units of each direction of each LSTM layer.
        num_layers: Number of LSTM layers.
        bidirectional: Whether each layer reads the document backwards too.
        pooling: What of the last layer's states goes to the head: ``last`` (of each direction, the state after the
            whole document), ``max`` or ``mean`` over time, or ``all`` three side by side (Howard & Ruder, 2018).
        embedding_scale: Standard deviation of the initial embeddings.
        token_dropout: Probability of dropping a whole token, in place, in training.
        embedding_dropout: Probability of dropping a feature of an embedded token.
        dropout: Probability of dropping a feature between LSTM layers and before the head.
        single_logit: Whether two classes share one logit, for the loss binary_cross_entropy.

    Raises:
        UserError: For sizes below 1, probabilities outside 0 to below 1, and one logit for more than two classes.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_classes: int = 2,
        embedding_size: int = 100,
        hidden_size: int = 256,
        num_layers: int = 1,
        bidirectional: bool = False,
        pooling: Pooling = "last",
        embedding_scale: float = 1.0,
        token_dropout: float = 0.0,
        embedding_dropout: float = 0.0,
        dropout: float = 0.0,
        single_logit: bool = False,
    ) -> None:
        super().__init__()
        _require_sizes(embedding_size=embedding_size, hidden_size=hidden_size, num_layers=num_layers)
        _require_probabilities(token_dropout=token_dropout, embedding_dropout=embedding_dropout, dropout=dropout)
        if vocabulary_size is None or vocabulary_size < 1:
            raise UserError(f"network.vocabulary_size is {vocabulary_size}: give a text data set, or a number")
        if single_logit and num_classes != 2:
            raise UserError(f"network.single_logit needs 2 classes, and there are {num_classes}")
        self.pooling = pooling
        self.hidden_size = hidden_size
        self.token_dropout = token_dropout
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        with torch.no_grad():
            self.embedding.weight.mul_(embedding_scale)
        self.embedding_dropout = nn.Dropout(embedding_dropout)
        state_size = hidden_size * (2 if bidirectional else 1)
        self.lstm = nn.ModuleList(
            LSTMLayer(state_size if index else embedding_size, hidden_size, bidirectional)
            for index in range(num_layers)
        )
        self.dropout = nn.Dropout(dropout)
        features = state_size * (3 if pooling == "all" else 1)
        self.head = nn.Linear(features, 1 if single_logit else num_classes)

    @property
    def layer_groups(self) -> dict[str, list[str]]:
        """The layers to freeze and unfreeze together, from input to head: paths of modules by name."""
        paths = ["embedding", *(f"lstm.{index}" for index in range(len(self.lstm))), "head"]
        return {path: [path] for path in paths}

    def forward(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        """Computes the logits; padding never changes them.

        Args:
            token_ids: int64 [batch, time], right-padded with any token.
            lengths: int64 [batch], from 1 to time.

        Returns:
            float [batch, num_classes], or [batch, 1] with ``single_logit``.
        """
        # Time first: what the LSTM computes in. The transposed ids are small, the embedded tokens are not.
        states = self.embedding_dropout(self._drop_tokens(self.embedding(token_ids.t())))
        reversed_steps = reversed_within_length(lengths, token_ids.shape[1])
        for index, layer in enumerate(self.lstm):
            states = layer(self.dropout(states) if index else states, reversed_steps)
        logits: Tensor = self.head(self.dropout(self._pool(states, lengths)))
        return logits

    def _drop_tokens(self, embedded: Tensor) -> Tensor:
        if not self.training or not self.token_dropout:
            return embedded
        keep = torch.rand(embedded.shape[:2], device=embedded.device) >= self.token_dropout
        return embedded * (keep / (1 - self.token_dropout)).unsqueeze(2).to(embedded.dtype)

    def _pool(self, states: Tensor, lengths: Tensor) -> Tensor:
        pooled = []
        if self.pooling in ("last", "all"):
            pooled.append(self._last(states, lengths))
        is_padding = torch.arange(len(states), device=lengths.device).unsqueeze(1) >= lengths
        if self.pooling in ("max", "all"):
            pooled.append(states.masked_fill(is_padding.unsqueeze(2), float("-inf")).amax(0))
        if self.pooling in ("mean", "all"):
            pooled.append(states.masked_fill(is_padding.unsqueeze(2), 0).sum(0) / lengths.unsqueeze(1))
        return torch.cat(pooled, 1)

    def _last(self, states: Tensor, lengths: Tensor) -> Tensor:
        """The forward direction ends at the last token, the backward one at the first."""
        ends = states[lengths - 1, torch.arange(len(lengths), device=lengths.device)]
        return torch.cat([ends[:, : self.hidden_size], states[0, :, self.hidden_size :]], 1)


def reversed_within_length(lengths: Tensor, time: int) -> Tensor:
    """Says where each step of a padded batch comes from when every sequence is reversed, and the padding stays.

    Args:
        lengths: int64 [batch].
        time: Steps of the padded batch.

    Returns:
        int64 [time * batch], into the batch with its first two dimensions, time and batch, as one.
    """
    steps = torch.arange(time, device=lengths.device).unsqueeze(1)
    source = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return (source * len(lengths) + torch.arange(len(lengths), device=lengths.device)).flatten()


def _take_steps(inputs: Tensor, source: Tensor) -> Tensor:
    # Whole rows: on a CPU nearly three times as fast as gather, which takes single numbers.
    return inputs.flatten(0, 1).index_select(0, source).view_as(inputs)


def _require_sizes(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise UserError(f"network.{name} is {value}: expected 1 or more")


def _require_probabilities(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < 1:
            raise UserError(f"network.{name} is {value}: expected at least 0 and below 1")
