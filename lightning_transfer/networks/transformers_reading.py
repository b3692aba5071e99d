"""Has a model of transformers read short texts, which says more surely than its config what it does with them."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_transfer.errors import UserError, in_one_line
from lightning_transfer.networks.transformers_model import most_tokens, tried_out

_ALIKE = 1e-4  # states are of the order of 1, and rounding changes them by some 1e-6


class Reading(NamedTuple):
    """What a model does with a text.

    Attributes:
        features: Size of the hidden state of a token.
        reads_ahead: Whether the state of the first token depends on the tokens after it.
        sees_padding: Whether padding after a text changes the states of its tokens.
    """

    features: int
    reads_ahead: bool
    sees_padding: bool


def read_short_texts(model: Any, padding_id: int) -> Reading:
    """Reads two short texts that begin alike, without padding and with it.

    Args:
        model: A model of transformers that gives hidden states. It is left as it was, and so is the random generator.
        padding_id: The token id that fills texts up.

    Raises:
        UserError: If the model does not read token ids.
    """
    rows, positions = embedded_tokens(model), most_tokens(model)
    length = max(1, min(4, positions - 2))
    texts = torch.stack([torch.arange(length), -torch.arange(length)]) % rows
    filled = torch.full((2, max(0, min(2, positions - length))), padding_id)
    try:
        with tried_out(model):
            alone = _states(model, texts, torch.ones_like(texts))
            is_token = torch.cat([torch.ones_like(texts), torch.zeros_like(filled)], 1)
            padded = _states(model, torch.cat([texts, filled], 1), is_token)[:, :length]
    except Exception as error:  # any kind, where the sizes of a config do not go together
        raise UserError(
            f"{type(model).__name__} does not read a short text ({in_one_line(error):.200}): expected a model of texts"
            " whose sizes go together"
        ) from error
    reads_ahead = length == 1 or not torch.equal(alone[0, 0], alone[1, 0])
    return Reading(alone.shape[2], reads_ahead, not torch.allclose(alone, padded, atol=_ALIKE))


def embedded_tokens(model: Any) -> int:
    """Returns the number of tokens that a model has embeddings for.

    Raises:
        UserError: If it embeds something else.
    """
    try:
        rows: int = model.get_input_embeddings().weight.shape[0]
    except (AttributeError, NotImplementedError) as error:
        raise UserError(f"{type(model).__name__} has no embeddings of tokens: expected a model of texts") from error
    return rows


def _states(model: Any, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
    where = {"device": model.device}
    states: Tensor = model(input_ids=token_ids.to(**where), attention_mask=attention_mask.to(**where))[0]
    return states.float()
