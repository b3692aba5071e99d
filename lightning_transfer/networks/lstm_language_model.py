"""The LSTM language model: the encoder, and a head that predicts the next token."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_transfer.errors import UserError
from lightning_transfer.keywords import Keywords
from lightning_transfer.networks.lstm_encoder import (
    EncoderOptions,
    LSTMEncoder,
    VariationalDropout,
    require_probabilities,
)
from lightning_transfer.networks.lstm_layer import LayerState


class LSTMLanguageModel(LSTMEncoder):
    """Predicts each next token of a stream of text, as AWD-LSTM (Merity et al., 2018) with all its dropouts.

    The embeddings are also the weights of the output layer. If the last layer has another size than an embedding, a
    linear layer brings its states to that size.

    Args:
        vocabulary_size: Number of token ids; follows from the data on the command line.
        cutoffs: Ids at which the vocabulary, most frequent tokens first, is cut into a head and tails. A tail is only
            computed for labels inside it (Grave et al., 2017). This is exact, and several times as fast as one
            softmax over all tokens, which an empty list gives.
        output_dropout: Probability of dropping a feature before the head, the same at all time steps.

    Raises:
        UserError: For values out of range, and cutoffs that do not rise within the vocabulary.
    """

    def __init__(
        self,
        vocabulary_size: int,
        cutoffs: list[int] | None = None,
        output_dropout: float = 0.0,
        **kwargs: Keywords[EncoderOptions],
    ) -> None:
        super().__init__(vocabulary_size, **kwargs)
        require_probabilities(output_dropout=output_dropout)
        require_one_direction(self)
        self.output_dropout = VariationalDropout(output_dropout)
        self.head = TiedAdaptiveSoftmax(
            vocabulary_size, self.embedding.embedding_dim, cutoffs or [], input_size=self.output_size
        )

    def forward(
        self, token_ids: Tensor, labels: Tensor, state: list[LayerState] | None = None
    ) -> tuple[Tensor, Tensor, Tensor, list[LayerState]]:
        """Reads a segment of each stream.

        Args:
            token_ids: int64 [time, batch].
            labels: int64 [time * batch], the token after each.
            state: The state of each layer after the previous segment; None at the start of the streams.

        Returns:
            The negative log-likelihood of each label in nats, float32 [time * batch]; the states of the last layer as
            they are and as the head gets them, both float [time, batch, output_size]; and the last state of each layer.
        """
        states, last = self.encode(token_ids, state=state)
        dropped = self.output_dropout(states)
        return self.head(dropped.flatten(0, 1), self.embedding.weight, labels), states, dropped, last


def require_one_direction(encoder: LSTMEncoder) -> None:
    """Refuses an encoder whose states know the tokens that are to be predicted.

    Raises:
        UserError: If it reads in both directions.
    """
    if encoder.state_size != encoder.output_size:
        raise UserError("network.bidirectional would let the language model see the next token: set it to false")


class TiedAdaptiveSoftmax(nn.Module):
    """Computes a softmax over a vocabulary in clusters, with the embeddings as its weights.

    Source: ``torch.nn.AdaptiveLogSoftmaxWithLoss`` (Grave et al., 2017). Unlike there, the tails keep the full size of
    an embedding, so that they can share its weights.

    Args:
        vocabulary_size: Number of tokens, the most frequent first.
        embedding_size: Features of an embedding.
        cutoffs: The ids at which the head and each tail but the last end.
        input_size: Features of a state. A linear layer brings states of another size to ``embedding_size``.
    """

    rows_of_tokens = ("bias",)  # one row for each token: it moves with the embeddings to another vocabulary

    def __init__(self, vocabulary_size: int, embedding_size: int, cutoffs: list[int], input_size: int) -> None:
        super().__init__()
        edges = [0, *cutoffs, vocabulary_size]
        if any(later <= earlier for earlier, later in pairwise(edges)):
            raise UserError(
                f"network.cutoffs are {cutoffs}: expected rising numbers between 0 and the {vocabulary_size} tokens of"
                " the vocabulary"
            )
        self.head_size = edges[1]
        self.tails = list(pairwise(edges[1:]))
        self.sizes = [stop - start for start, stop in pairwise(edges)]
        self.projection = nn.Linear(input_size, embedding_size) if input_size != embedding_size else nn.Identity()
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))
        self.clusters = nn.Linear(embedding_size, len(self.tails)) if self.tails else None

    def forward(self, states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        """Computes the negative log-likelihood of each label.

        Args:
            states: float [tokens, input_size].
            weight: float [vocabulary_size, embedding_size], the embeddings.
            labels: int64 [tokens].

        Returns:
            float32 [tokens], in nats.
        """
        states = self.projection(states)
        targets, tail_losses = labels, []
        # Everything is split at once, because each separate slice would cost a gradient of the whole size.
        head_part, *tail_parts = zip(*(torch.split(whole, self.sizes) for whole in (weight, self.bias)), strict=True)
        for index, ((start, stop), (tail_weight, tail_bias)) in enumerate(zip(self.tails, tail_parts, strict=True)):
            is_inside = (labels >= start) & (labels < stop)
            rows = is_inside.nonzero().squeeze(1)
            targets = targets.masked_fill(is_inside, self.head_size + index)
            # Rows are taken and put back by index, so a tail without labels gives empty tensors and no error.
            logits = F.linear(states[rows], tail_weight, tail_bias)
            tail_losses.append((rows, F.cross_entropy(logits.float(), labels[rows] - start, reduction="none")))
        losses = F.cross_entropy(self._head_logits(states, *head_part).float(), targets, reduction="none")
        for rows, tail_loss in tail_losses:
            losses = losses.index_add(0, rows, tail_loss)
        return losses

    def log_probabilities(self, states: Tensor, weight: Tensor) -> Tensor:
        """Computes the log-probabilities of all tokens, float32 [tokens, vocabulary_size]; see ``forward``."""
        states = self.projection(states)
        head_weight, head_bias = weight[: self.head_size], self.bias[: self.head_size]
        head = self._head_logits(states, head_weight, head_bias).float().log_softmax(1)
        parts = [head[:, : self.head_size]]
        for index, (start, stop) in enumerate(self.tails):
            logits = F.linear(states, weight[start:stop], self.bias[start:stop])
            parts.append(logits.float().log_softmax(1) + head[:, [self.head_size + index]])
        return torch.cat(parts, 1)

    def _head_logits(self, states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if self.clusters is not None:
            weight, bias = torch.cat([weight, self.clusters.weight]), torch.cat([bias, self.clusters.bias])
        return F.linear(states, weight, bias)
