"""Moves the rows of embeddings from one vocabulary to another."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


def move_rows(rows: Tensor, source: Sequence[str], target: Sequence[str]) -> Tensor:
    """Gives each token of a vocabulary the row that it has in another, and new tokens the mean of all rows.

    Args:
        rows: [len(source), ...], one row for each token of the source.
        source: The tokens in the order of the rows.
        target: The tokens that get rows.

    Returns:
        [len(target), ...]

    Source:
        Howard and Ruder, Universal Language Model Fine-tuning for Text Classification, 2018.
    """
    places = {token: row for row, token in enumerate(source)}
    moved = rows.mean(0, keepdim=True).repeat(len(target), *[1] * (rows.ndim - 1))
    shared = [(row, places[token]) for row, token in enumerate(target) if token in places]
    if shared:
        new, old = zip(*shared, strict=True)
        moved[list(new)] = rows[list(old)]
    return moved


def token_tensors(module: nn.Module, vocabulary_size: int) -> set[str]:
    """Finds the tensors with one row for each token: embeddings, and output layers tied to one, with their biases.

    A layer that is given the embeddings from outside names its own such tensors in ``rows_of_tokens``. A model of
    transformers says by itself which embeddings are those of tokens: its positions may be equally many.

    Args:
        module: Any module.
        vocabulary_size: The number of tokens.

    Returns:
        Names as in the module's state dict.
    """
    models: list[Any] = [part for part in module.modules() if callable(getattr(part, "get_input_embeddings", None))]
    known = {id(model.get_input_embeddings()) for model in models}
    inside = {id(part) for model in models for part in model.modules()}
    embeddings = {
        id(part.weight)
        for part in module.modules()
        if isinstance(part, nn.Embedding) and part.num_embeddings == vocabulary_size
        if id(part) in known or id(part) not in inside
    }
    return {
        f"{path}.{name}".lstrip(".")
        for path, part in module.named_modules(remove_duplicate=False)
        for name, parameter in part.named_parameters(recurse=False)
        if id(getattr(part, "weight", None)) in embeddings or name in getattr(part, "rows_of_tokens", ())
        if len(parameter) == vocabulary_size
    }


def bound_tensors(module: nn.Module) -> set[str]:
    """Finds the tensors that have no meaning in another vocabulary, by names as in the module's state dict.

    A layer names its own such tensors in ``bound_to_vocabulary``.
    """
    return {
        f"{path}.{name}".lstrip(".")
        for path, part in module.named_modules()
        for name in getattr(part, "bound_to_vocabulary", ())
    }
