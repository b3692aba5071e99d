"""Compares features: finds their axes of examples and of time, which change with them, and what rounding explains."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def changed_inputs(inputs: tuple[Tensor, ...], is_text: bool) -> tuple[Tensor, ...]:
    """Makes inputs of another number of examples, and for texts of another time.

    Args:
        inputs: Tensors [batch, ...].
        is_text: Whether they are token ids, int64 [batch, time], and the lengths of the texts.
    """
    sizes = [len(inputs[0])]
    if is_text:
        token_ids, lengths = inputs
        token_ids = token_ids[:, :-1] if token_ids.shape[1] > 1 else token_ids.repeat(1, 2)
        sizes.append(token_ids.shape[1])
        inputs = token_ids, lengths.clamp(max=token_ids.shape[1])
    count = next(number for number in (1, 2, 3) if number not in sizes)
    return tuple(torch.cat([tensor[:1]] * count) for tensor in inputs)


def axes_of_features(
    features: Sequence[int], other_features: Sequence[int], inputs: Sequence[int], others: Sequence[int]
) -> tuple[int, ...]:
    """Finds the axis of the examples, and that of time if there is one, in this order.

    Args:
        features: The shape of features.
        other_features: That of the features of other inputs.
        inputs: The shape [batch, time, ...] of the inputs.
        others: That of the other inputs, from :func:`changed_inputs`.

    Returns:
        The axes, none if something else changes too, or the examples have no axis.
    """
    if len(features) != len(other_features):
        return ()
    changed = {axis: pair for axis, pair in enumerate(zip(features, other_features, strict=True)) if pair[0] != pair[1]}
    pairs = [pair for pair in zip(inputs, others, strict=True) if pair[0] != pair[1]]
    found = tuple(axis for pair in pairs for axis in changed if changed[axis] == pair)
    is_explained = {*found} == {*changed} and changed and changed[found[0]] == pairs[0]
    return found if is_explained and len(found) <= len(pairs) else ()


def is_close(tensor: Tensor, expected: Tensor) -> bool:
    """Says whether two floating-point tensors are the same but for rounding, which another place in memory may change.

    Each number is compared at its own size or the root mean square, whichever is larger: a few very large numbers, as
    transformers have them, hide no difference in the others.

    Args:
        tensor: Of any shape; without NaN.
        expected: Likewise.
    """
    if tensor.shape != expected.shape:
        return False
    size = expected.abs().maximum(expected.float().square().mean().sqrt().to(expected.dtype))
    return bool(((tensor - expected).abs() <= math.sqrt(torch.finfo(expected.dtype).eps) * size).all())
