"""Chooses and masks the tokens that a masked language model is to guess."""

from collections.abc import Sequence

import numpy as np

_NOT_MASKED = -100  # the label of a token that is not to be guessed, as torch's losses have it


def mask_tokens(
    stream: np.ndarray, fraction: float, mask: int, kept: Sequence[int], vocabulary_size: int, seed: list[int]
) -> np.ndarray:
    """Chooses tokens to be guessed: of ten, eight are masked, one is another token, and one is left as it is.

    Args:
        stream: int32 [tokens].
        fraction: Share of the tokens to choose.
        mask: The token in place of a masked one.
        kept: Tokens that are never chosen.
        vocabulary_size: Number of tokens to draw another one from.
        seed: Another seed chooses others.

    Returns:
        int32 [tokens, 2]: what is read, and the label, which is -100 for a token that is not to be guessed.

    Source:
        Devlin et al., BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding, 2019.
    """
    generator = np.random.default_rng(seed)
    draws = generator.random(len(stream))
    is_chosen = (draws < fraction) & ~np.isin(stream, kept)
    kind = draws / fraction  # of a chosen token uniform from 0 to 1
    others = generator.integers(0, vocabulary_size, len(stream), dtype=np.int32)
    read = np.where(is_chosen & (kind < 0.8), np.int32(mask), stream)
    read = np.where(is_chosen & (kind >= 0.9), others, read)
    return np.stack([read, np.where(is_chosen, stream, np.int32(_NOT_MASKED))], axis=1)
