"""The recurrent encoder of text: embedding and LSTM layers, with the dropouts of AWD-LSTM as options.

The classifier and the language model are both this encoder plus a head, so weights move between them by name.
"""

from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from lightning_transfer.errors import UserError
from lightning_transfer.networks.lstm_layer import LayerState, LSTMLayer

_MOST_LAYERS = 1000  # each would be built, one after the other, until the memory ends


class BareEncoderOptions(TypedDict, total=False):
    """Names and types of :class:`LSTMEncoder`'s arguments, except the vocabulary's size and ``dropout``."""

    embedding_size: int
    hidden_size: int
    num_layers: int
    output_size: int | None
    bidirectional: bool
    embedding_scale: float
    token_dropout: float
    word_dropout: float
    embedding_dropout: float
    weight_dropout: float
    variational_dropout: bool


class EncoderOptions(BareEncoderOptions, total=False):
    """The arguments of :class:`BareEncoderOptions` and ``dropout``."""

    dropout: float


class LSTMEncoder(nn.Module):
    """Encodes token ids by an embedding and LSTM layers.

    In training only, each dropout zeroes a random part of what it names, and scales the rest up.

    Args:
        vocabulary_size: Number of token ids; follows from the data on the command line.
        embedding_size: Features of each token.
        hidden_size: Units of each direction of each LSTM layer.
        num_layers: Number of LSTM layers.
        output_size: Units of each direction of the last LSTM layer; ``hidden_size`` if not given.
        bidirectional: Whether each layer also reads the document backwards.
        embedding_scale: Standard deviation of the initial embeddings.
        token_dropout: Probability of zeroing the embedding of a token in training.
        word_dropout: Probability of dropping a word of the vocabulary from a whole batch (embedding dropout: Gal and
            Ghahramani, 2016).
        embedding_dropout: Probability of dropping a feature of an embedded token.
        dropout: Probability of dropping a feature between LSTM layers and before the head.
        weight_dropout: Probability of dropping a recurrent weight from a whole batch (Merity et al., 2018).
        variational_dropout: Whether ``embedding_dropout`` and ``dropout`` drop the same features at all time steps of a
            sequence (Gal and Ghahramani, 2016).

    Raises:
        UserError: For sizes below 1, more than 1,000 layers, and probabilities outside 0 to below 1.
    """

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int = 100,
        hidden_size: int = 256,
        num_layers: int = 1,
        output_size: int | None = None,
        bidirectional: bool = False,
        embedding_scale: float = 1.0,
        token_dropout: float = 0.0,
        word_dropout: float = 0.0,
        embedding_dropout: float = 0.0,
        dropout: float = 0.0,
        weight_dropout: float = 0.0,
        variational_dropout: bool = False,
    ) -> None:
        super().__init__()
        output_size = hidden_size if output_size is None else output_size
        require_sizes(
            embedding_size=embedding_size, hidden_size=hidden_size, num_layers=num_layers, output_size=output_size
        )
        if num_layers > _MOST_LAYERS:
            raise UserError(f"network.num_layers is {num_layers}: expected 1 to {_MOST_LAYERS:,}")
        require_probabilities(
            token_dropout=token_dropout,
            word_dropout=word_dropout,
            embedding_dropout=embedding_dropout,
            dropout=dropout,
            weight_dropout=weight_dropout,
        )
        if vocabulary_size is None or vocabulary_size < 1:
            raise UserError(f"network.vocabulary_size is {vocabulary_size}: give a text data set, or a number")
        self.token_dropout = token_dropout
        self.word_dropout = word_dropout
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        with torch.no_grad():
            self.embedding.weight.mul_(embedding_scale)
        dropout_class: Any = VariationalDropout if variational_dropout else nn.Dropout
        self.embedding_dropout = dropout_class(embedding_dropout)
        self.layer_dropout = dropout_class(dropout)
        directions = 2 if bidirectional else 1
        sizes = [hidden_size] * (num_layers - 1) + [output_size]
        inputs = [embedding_size, *(directions * size for size in sizes[:-1])]
        self.lstm = nn.ModuleList(
            LSTMLayer(before, size, bidirectional, weight_dropout) for before, size in zip(inputs, sizes, strict=True)
        )
        self.output_size = output_size
        self.state_size = directions * output_size

    @property
    def layer_groups(self) -> dict[str, list[str]]:
        """The layers to freeze and unfreeze together, from input to head: group name -> paths of modules."""
        paths = ["embedding", *(f"lstm.{index}" for index in range(len(self.lstm))), "head"]
        return {path: [path] for path in paths}

    def encode(
        self, token_ids: Tensor, reversed_steps: Tensor | None = None, state: list[LayerState] | None = None
    ) -> tuple[Tensor, list[LayerState]]:
        """Computes the hidden states of the last layer.

        Args:
            token_ids: int64 [time, batch]; time comes first, as the LSTM computes in that order.
            reversed_steps: int64 [time * batch], see :func:`reversed_within_length`; needed for both directions.
            state: The state of each layer to start from; from zeros if not given.

        Returns:
            float [time, batch, state_size], and the forward direction's last state of each layer.
        """
        states = self.embedding_dropout(self._drop_tokens(self._embed(token_ids)))
        last = []
        for index, layer in enumerate(self.lstm):
            states = self.layer_dropout(states) if index else states
            states, layer_last = layer(states, reversed_steps, None if state is None else state[index])
            last.append(layer_last)
        return states, last

    def _embed(self, token_ids: Tensor) -> Tensor:
        embedded: Tensor = self.embedding(token_ids)
        if not self.training or not self.word_dropout:
            return embedded
        keep = torch.rand(self.embedding.num_embeddings, device=embedded.device) >= self.word_dropout
        return embedded * (keep / (1 - self.word_dropout))[token_ids].unsqueeze(2).to(embedded.dtype)

    def _drop_tokens(self, embedded: Tensor) -> Tensor:
        if not self.training or not self.token_dropout:
            return embedded
        keep = torch.rand(embedded.shape[:2], device=embedded.device) >= self.token_dropout
        return embedded * (keep / (1 - self.token_dropout)).unsqueeze(2).to(embedded.dtype)


class VariationalDropout(nn.Module):
    """Drops the same features at all time steps of a sequence. Source: Gal and Ghahramani, 2016.

    Args:
        probability: Probability of dropping a feature.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, states: Tensor) -> Tensor:
        """Drops features of float [time, batch, features] in training."""
        if not self.training or not self.probability:
            return states
        return states * nn.functional.dropout(torch.ones_like(states[:1]), self.probability)


def require_sizes(**values: int) -> None:
    """Refuses sizes below 1, and names the argument.

    Raises:
        UserError: For the first such value.
    """
    for name, value in values.items():
        if value < 1:
            raise UserError(f"network.{name} is {value}: expected 1 or more")


def require_probabilities(**values: float) -> None:
    """Refuses probabilities outside 0 to below 1, and names the argument.

    Raises:
        UserError: For the first such value.
    """
    for name, value in values.items():
        if not 0 <= value < 1:
            raise UserError(f"network.{name} is {value}: expected at least 0 and below 1")
