"""Adversarial training of networks that read tokens: a batch, and the same batch moved a step against its labels."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_transfer.errors import UserError


def find_embedding(network: nn.Module) -> nn.Embedding:
    """Finds the first embedding of a network.

    Raises:
        UserError: For a network without one, and a compiled one, which calls no hooks.
    """
    embedding = next((module for module in network.modules() if isinstance(module, nn.Embedding)), None)
    if embedding is None:
        raise UserError(
            f"model.adversarial_norm moves embedded tokens, and {type(network).__name__} has no nn.Embedding: leave it"
            " at 0"
        )
    if network._compiled_call_impl is not None:
        raise UserError("model.adversarial_norm and model.compile do not go together: leave one out")
    return embedding


def adversarial_loss(
    embedding: nn.Embedding, token_ids: Tensor, norm: float, compute: Callable[[], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes the loss of a batch, and that of the same batch where each document is moved towards a higher loss.

    Every document's embedded tokens move along their gradient, normalised over the document. Dropout falls anew.

    Args:
        embedding: What is moved is its output, frozen or not.
        token_ids: int64 [batch, time], what the network reads.
        norm: Euclidean length of the step of a document, over all its tokens and features.
        compute: Computes the logits and the mean loss of the batch, by way of the embedding.

    Returns:
        The logits and the loss of the batch as it is, and the loss of the moved one.

    Raises:
        UserError: Where the embedding is not called once with gradients.

    Source:
        Miyato, Dai and Goodfellow, Adversarial Training Methods for Semi-Supervised Text Classification, 2017.
    """
    calls: list[tuple[Tensor, Tensor]] = []
    step: Tensor | None = None

    def watch(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not torch.is_grad_enabled():  # what a network reads without gradients stays where it is
            return None
        if step is not None:
            return output + step.to(output.dtype)
        calls.append((inputs[0], output.requires_grad_()))
        return None

    hook = embedding.register_forward_hook(watch)
    try:
        logits, loss = compute()
        if len(calls) != 1:
            raise UserError(
                "model.adversarial_norm is for networks that embed a batch once, and this one embeds the tokens of a"
                f" batch {len(calls)} times: leave it at 0"
            )
        [(embedded_ids, embedded)] = calls
        (gradient,) = torch.autograd.grad(loss, embedded, retain_graph=True)
        step = _of_length(gradient, norm, _has_batch_first(embedded_ids, token_ids))
        _, moved_loss = compute()
    finally:
        hook.remove()
    return logits, loss, moved_loss


def _of_length(gradient: Tensor, norm: float, batch_first: bool) -> Tensor:
    within_document = (1, 2) if batch_first else (0, 2)
    gradient = gradient.float()
    length = torch.linalg.vector_norm(gradient, dim=within_document, keepdim=True)
    # A document without a gradient stays where it is.
    step: Tensor = norm * gradient / length.clamp(min=torch.finfo(gradient.dtype).tiny)
    return step


def _has_batch_first(embedded_ids: Tensor, token_ids: Tensor) -> bool:
    """Recurrent networks often put the time first, and may read but the last steps with gradients."""
    first, second = embedded_ids.shape
    if first != second:
        return first == len(token_ids)
    return torch.equal(embedded_ids, token_ids[:, -second:])
