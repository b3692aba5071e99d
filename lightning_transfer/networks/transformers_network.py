"""Classifies documents by an encoder or a decoder of Hugging Face transformers."""

from typing import Any, ClassVar, Literal, TypedDict

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_transfer.errors import UserError, require_library
from lightning_transfer.networks.lstm_encoder import require_probabilities
from lightning_transfer.networks.transformers_model import (
    adapt_weights,
    build_model,
    has_masked_model,
    most_tokens,
    read_config,
    transformer_layer_groups,
)
from lightning_transfer.networks.transformers_reading import embedded_tokens, read_short_texts


class TransformerOptions(TypedDict, total=False):
    """Names and types of the arguments of ``Transformer``."""

    name: str | None
    vocabulary_size: int | None
    model_arguments: dict[str, Any] | None
    dropout: float | None
    gradient_checkpointing: bool


Pooling = Literal["first", "mean", "last"]
_HEAD_DROPOUT = 0.1


class Transformer(nn.Module):
    """Holds a model of transformers that gives the hidden state of each token.

    Args:
        name: A Hub id, or a folder, whose config.json says what the model is like. Its weights come from ``init_from``.
        vocabulary_size: Number of token ids; follows from the data on the command line.
        model_arguments: Entries of a config.json that are added to those of ``name``, or a whole one without a name:
            ``model_type`` and the arguments of that type.
        dropout: Probability of all dropouts inside the model, in place of those of its config.
        gradient_checkpointing: Whether to compute each layer again in the backward pass instead of keeping its
            activations: takes a third more time, and much less memory.

    Attributes:
        config: The entries of config.json that the model was built from.

    Raises:
        UserError: If transformers is not installed, has no such model, or its values do not go together; also for data
            with more tokens than the model has embeddings.
    """

    library: ClassVar[str] = "transformers"

    def __init__(
        self,
        name: str | None = None,
        vocabulary_size: int | None = None,
        model_arguments: dict[str, Any] | None = None,
        dropout: float | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        require_library(self.library, type(self).__name__)
        if name is None and not model_arguments:
            raise UserError(
                f"model.network.name is null: expected a Hub id or a folder for {type(self).__name__}, or a config in"
                " model_arguments"
            )
        self.config = (read_config(name) if name is not None else {}) | (model_arguments or {})
        if vocabulary_size is not None and "vocab_size" not in self.config:
            self.config["vocab_size"] = vocabulary_size
        if dropout is not None:
            require_probabilities(dropout=dropout)
        self.model = self.build(dropout)
        rows = embedded_tokens(self.model)
        if vocabulary_size is not None and vocabulary_size > rows:
            raise UserError(
                f"the data has {vocabulary_size} tokens, and {name or 'the model'} embeddings for {rows}: set"
                f" data.tokenizer to {name or 'its own'}, or vocab_size in model_arguments"
            )
        self.most_tokens = most_tokens(self.model)
        self._padding_id = max(0, getattr(self.model.config, "pad_token_id", None) or 0)  # some say -1 for none
        if gradient_checkpointing:
            if not self.model.supports_gradient_checkpointing:
                raise UserError(f"{type(self.model).__name__} has no gradient checkpointing: leave it off")
            # The other way, by a backward within the backward, needs inputs that require gradients.
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
            # So the library makes the embeddings require them, and frozen layers above would be computed again.
            self.model.disable_input_require_grads()

    def build(self, dropout: float | None) -> Any:
        """Builds the model from ``config``."""
        return build_model(self.config, "encoder", dropout)

    def adapt_source(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Brings the tensors of a file of the library into today's names, without those for other tasks."""
        return adapt_weights(self, self.model, weights)

    def check_length(self, tokens: int) -> None:
        """Refuses texts that are longer than the model can read.

        Raises:
            UserError: For more tokens than it has positions for.
        """
        if tokens > self.most_tokens:
            raise UserError(
                f"{type(self.model).__name__} reads {self.most_tokens} tokens at most, not {tokens}: set"
                " data.max_tokens, or data.segment_tokens, to which varied_segments adds a little"
            )

    def hidden_states(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        """Computes the hidden state of each token; padding changes those of a document only where the model reads it.

        Args:
            token_ids: int64 [batch, time], right-padded with any token.
            lengths: int64 [batch], from 1 to time.

        Returns:
            float [batch, time, hidden_size].

        Raises:
            UserError: For documents that are longer than the model can read.
        """
        time = token_ids.shape[1]
        self.check_length(time)
        is_token = torch.arange(time, device=lengths.device) < lengths.unsqueeze(1)
        filled = token_ids.masked_fill(~is_token, self._padding_id)
        states: Tensor = self.model(input_ids=filled, attention_mask=is_token.long(), return_dict=True)[0]
        return states


class TransformersNetwork(Transformer):
    """Classifies documents by any encoder or decoder of transformers, with fresh weights; ``init_from`` loads some.

    Attention is torch's scaled-dot-product attention, where the library has it for the model. Code beside weights on
    the Hub is never run.

    Args:
        num_classes: Number of outputs; follows from the data on the command line.
        pooling: How the head sees a document: by the hidden state of its ``first`` or ``last`` token, or by their
            ``mean``. If not given, encoders take what their config says, or else the first; decoders take the last.
        dropout: Probability of dropping a feature before the head (0.1 if not given), and of all dropouts inside the
            model (as its config says if not given).

    Attributes:
        model: The library's module, without a pooler.
        layer_groups: The layers to freeze and unfreeze together: embeddings, layer.0, …, layer.n, head.
        token_features: Features of the hidden state of each token.
        depends_on_batch: Whether padding, and so the other documents of a batch, changes those of a document.

    Raises:
        UserError: Also for a number of classes below 1, and for a pooling by the first token of a model that reads from
            left to right.
    """

    def __init__(
        self,
        num_classes: int,
        name: str | None = None,
        pooling: Pooling | None = None,
        vocabulary_size: int | None = None,
        model_arguments: dict[str, Any] | None = None,
        dropout: float | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(name, vocabulary_size, model_arguments, dropout, gradient_checkpointing)
        if num_classes is None or num_classes < 1:
            raise UserError(f"num_classes is {num_classes}: expected at least 1")
        reading = read_short_texts(self.model, self._padding_id)
        if pooling == "first" and not reading.reads_ahead:
            raise UserError(
                f"model.network.pooling is first: expected last or mean, as {type(self.model).__name__} reads from left"
                " to right, and the first token of a document knows nothing of the others"
            )
        if reading.sees_padding:
            rank_zero_warn(
                f"{type(self.model).__name__} reads the padding too: what it says of a document depends a little on the"
                " others in its batch"
            )
        self.depends_on_batch = reading.sees_padding
        self.pooling: Pooling = pooling or (_usual_pooling(self.config) if reading.reads_ahead else "last")
        self.dropout = nn.Dropout(_HEAD_DROPOUT if dropout is None else dropout)
        self.token_features = reading.features
        self.head = nn.Linear(self.token_features, num_classes)
        groups = transformer_layer_groups(self.model)
        self.layer_groups = {group: [f"model.{path}" for path in paths] for group, paths in groups.items()}
        self.layer_groups["head"] = ["head"]

    def forward(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        """Computes the logits.

        Args:
            token_ids: int64 [batch, time], right-padded with any token.
            lengths: int64 [batch], from 1 to time.

        Returns:
            float [batch, num_classes].
        """
        logits: Tensor = self.head(self.dropout(self.encode(token_ids, lengths)))
        return logits

    def encode(self, token_ids: Tensor, lengths: Tensor) -> Tensor:
        """Computes the pooled hidden state of each document, float [batch, hidden_size]; see ``forward``."""
        states = self.hidden_states(token_ids, lengths)
        if self.pooling == "first":
            return states[:, 0]
        if self.pooling == "last":
            return states[torch.arange(states.shape[0], device=states.device), lengths - 1]
        is_padding = torch.arange(states.shape[1], device=lengths.device) >= lengths.unsqueeze(1)
        return states.masked_fill(is_padding.unsqueeze(2), 0).sum(1) / lengths.unsqueeze(1).to(states.dtype)

    def token_states(self, token_ids: Tensor) -> Tensor:
        """Computes the hidden state of each token of a stream, as a language model needs it.

        Args:
            token_ids: int64 [time, batch].

        Returns:
            float [time, batch, token_features].
        """
        lengths = torch.full(token_ids.shape[1:], len(token_ids), device=token_ids.device)
        return self.hidden_states(token_ids.t(), lengths).transpose(0, 1)

    @property
    def token_embeddings(self) -> Tensor:
        """The embeddings of the tokens, float [tokens, embedding_size]."""
        embeddings: Tensor = self.model.get_input_embeddings().weight
        return embeddings

    @property
    def is_masked(self) -> bool:
        """Whether a token's state knows the tokens after it, so that masked ones alone can be predicted."""
        return has_masked_model(self.config)


def _usual_pooling(config: dict[str, Any]) -> Pooling:
    if not has_masked_model(config):
        return "last"
    return "mean" if config.get("classifier_pooling") == "mean" else "first"
