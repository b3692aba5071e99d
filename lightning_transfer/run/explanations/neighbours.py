"""Finds the training examples that a network represents most like others: by what goes into its head."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_transfer.errors import UserError
from lightning_transfer.run.explanations.scores import Inputs, Scores
from lightning_transfer.transfer.shown_groups import first_of_head, own_groups


def nearest(of: Tensor, among: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Finds the most similar rows by the cosine of the angle.

    Args:
        of: float32 [examples, features].
        among: float32 [candidates, features].
        count: How many.

    Returns:
        The rows, int64 [examples, count], the most similar first, and their cosines, float32, as many.

    Raises:
        UserError: If they have other numbers of features.
    """
    _require_one_length([of, among])
    cosines = F.normalize(of) @ F.normalize(among).T
    found = cosines.topk(min(count, len(among)), 1)
    return found.indices, found.values


@torch.no_grad()
def embeddings(
    scores: Scores, batches: Iterable[Inputs], in_order: Callable[[list[Tensor]], Tensor] = torch.cat
) -> Tensor:
    """Computes what goes into the head, float32 [examples, features] on the CPU.

    Args:
        scores: The network.
        batches: Inputs.
        in_order: Joins the batches.

    Raises:
        UserError: If batches have other numbers of features, as where the head is given those of each token.
    """
    found: list[Tensor] = []
    with _listening(scores, found):
        for inputs in batches:
            scores(*inputs)
    _require_one_length(found)
    return in_order(found)


def _require_one_length(parts: Iterable[Tensor]) -> None:
    lengths = {features.shape[1] for features in parts}
    if len(lengths) > 1:
        raise UserError(f"the head is given {min(lengths)} to {max(lengths)} numbers: expected as many of each example")


@contextmanager
def _listening(scores: Scores, found: list[Tensor]) -> Iterator[None]:
    """Keeps what goes into the first module with weights of the last layer group, at each pass."""
    first = first_of_head(own_groups(scores.classifier))
    assert first is not None  # any network has children

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(inputs[0].flatten(1).float().cpu())

    hook = first.register_forward_pre_hook(keep)
    try:
        yield
    finally:
        hook.remove()
