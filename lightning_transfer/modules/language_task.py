"""Language modelling as one of several tasks: a network that classifies texts also predicts their tokens."""

from typing import Any

from torch import Tensor, nn

from lightning_transfer.errors import UserError
from lightning_transfer.modules.language_model import TokenBatch, check_masking
from lightning_transfer.networks.lstm_encoder import LSTMEncoder
from lightning_transfer.networks.lstm_language_model import TiedAdaptiveSoftmax, require_one_direction
from lightning_transfer.networks.transformers_language_model import NOT_MASKED


def language_head(network: Any, cutoffs: list[int] | None) -> TiedAdaptiveSoftmax:
    """Builds the head that predicts tokens, with the network's embeddings as its weights.

    Args:
        network: A network of texts with ``token_states`` and ``token_embeddings``.
        cutoffs: Ids at which the vocabulary is cut into clusters; see ``LSTMLanguageModel``.

    Raises:
        UserError: For another network, one that sees the tokens it is to predict, and sparse gradients.
    """
    name = type(network).__name__
    if not hasattr(network, "token_states"):
        raise UserError(f"model.network is {name}: expected LSTMClassifier or TransformersNetwork, to predict tokens")
    if isinstance(network, LSTMEncoder):
        require_one_direction(network)
    if getattr(getattr(network, "embedding", None), "sparse", False):
        raise UserError("network.sparse_gradients is true: expected false, as the language model trains all embeddings")
    tokens, features = network.token_embeddings.shape
    return TiedAdaptiveSoftmax(tokens, features, cutoffs or [], network.token_features)


def token_losses(network: Any, head: nn.Module, batch: TokenBatch) -> Tensor:
    """Computes the negative log-likelihood of each token to predict, float32 [tokens], in nats.

    Each segment is read by itself: no state is carried from one to the next.

    Args:
        network: See :func:`language_head`.
        head: The head.
        batch: Segments of streams of text.
    """
    states, labels = network.token_states(batch.token_ids).flatten(0, 1), batch.labels
    if getattr(network, "is_masked", False):
        rows = (labels != NOT_MASKED).nonzero().squeeze(1)
        if not len(rows):  # a short segment may have none to predict; the sum of nothing has gradients of 0
            nothing: Tensor = states.float().sum(1)[:0]
            return nothing
        states, labels = states[rows], labels[rows]
    losses: Tensor = head(states, network.token_embeddings, labels)
    return losses


def check_language_task(network: Any, data: Any) -> None:
    """Checks that the data of a task wants predicted what the network can predict.

    Raises:
        UserError: For masked tokens where the network predicts the next ones, the other way round, and streams that are
            read in the other direction.
    """
    check_masking(network, data)
    reads = getattr(network, "direction", "forward")
    if (direction := getattr(data, "direction", reads)) != reads:
        raise UserError(f"direction of the texts to predict is {direction}: expected {reads}, as network.direction is")
