"""Cuts documents of one or several texts to a number of tokens.

Where a document is too long, its shorter texts are kept whole as far as their equal shares go, and the longer ones
share what is left. Of each text that is cut, the first quarter of its share and the last three are kept, as texts say
what they are about at the start and what they conclude at the end (after Sun et al., 2019, "How to fine-tune BERT for
text classification?").
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_transfer.data.pretrained_tokenizer import SpecialTokens
from lightning_transfer.data.tokenizer import Documents
from lightning_transfer.errors import UserError


def bounds_of(documents: Documents, texts: int, separator: int) -> np.ndarray:
    """Finds where the texts of each document begin.

    Args:
        documents: Documents of equally many texts, set apart by the separator.
        texts: The number of texts in each.
        separator: The token that sets them apart.

    Returns:
        int64 [documents, texts + 1]: text j of document i begins at ``[i, j]`` and ends one before ``[i, j + 1]``.

    Raises:
        UserError: Where the separator is in a text.
    """
    starts, ends = documents.offsets[:-1, None], documents.offsets[1:, None] + 1
    if texts == 1:
        return np.concatenate([starts, ends], 1)
    found = np.flatnonzero(documents.token_ids == separator)
    if len(found) != len(starts) * (texts - 1):
        raise UserError(
            "the tokenizer has one token for padding and for unknown words, or a text holds that of padding: expected"
            " another tokenizer for several text columns, or one column"
        )
    separators = found.reshape(len(starts), texts - 1)
    return np.concatenate([starts, separators + 1, ends], 1)


def cut(token_ids: Tensor, bounds: Tensor, max_tokens: int, longest: int, padding: int) -> tuple[Tensor, Tensor]:
    """Cuts documents and pads them to one length.

    Args:
        token_ids: int [tokens], all documents one after the other.
        bounds: int64 [batch, texts + 1], those of the documents to take; see :func:`bounds_of`.
        max_tokens: Tokens of a document at most, with the separators between its texts.
        longest: The most tokens that one of these documents has when it is cut.
        padding: The token that fills up shorter documents.

    Returns:
        int64 [batch, longest], right-padded, and the tokens of each, int64 [batch, 1].
    """
    whole = bounds.diff(dim=1) - 1
    kept = shares(whole, max_tokens - (whole.shape[1] - 1))
    ends = (kept + 1).cumsum(1)  # in the batch, each with the separator that follows
    lengths = ends[:, -1:] - 1
    step = torch.arange(longest, device=token_ids.device).expand(len(bounds), -1)
    text = (step.unsqueeze(2) >= ends[:, None, :-1]).sum(2)
    within = step - (ends - kept - 1).gather(1, text)
    share = kept.gather(1, text)
    # Steps past the first quarter of a cut text skip what was left out.
    skipped = torch.where(within >= share // 4, whole.gather(1, text) - share, 0)
    source = (bounds[:, :-1].gather(1, text) + within + skipped).clamp(max=len(token_ids) - 1)
    return token_ids[source].long().masked_fill(step >= lengths, padding), lengths


def shares(whole: Tensor, tokens: int) -> Tensor:
    """Divides a number of tokens among the texts of each document: equally, but none gets more than it has.

    Args:
        whole: int64 [documents, texts], the tokens that each text has.
        tokens: Number of tokens to divide, at least one for each text.

    Returns:
        int64 [documents, texts].
    """
    ordered, places = whole.sort(1)
    left = torch.full_like(whole[:, 0], tokens)
    kept = []
    for place, length in enumerate(ordered.unbind(1)):
        kept.append(length.minimum(left // (whole.shape[1] - place)))
        left = left - kept[-1]
    return torch.stack(kept, 1).gather(1, places.argsort(1))


def surround(token_ids: Tensor, lengths: Tensor, tokens: SpecialTokens, before: list[int]) -> tuple[Tensor, Tensor]:
    """Adds the tokens with which a model marks documents, and sets their texts apart by its separator, one each.

    Args:
        token_ids: int64 [batch, time], right-padded, as :func:`cut` gives them.
        lengths: int64 [batch, 1].
        tokens: The model's special tokens.
        before: Those to put before each document.

    Returns:
        int64 [batch, time + the tokens added], and the tokens of each, int64 [batch, 1].
    """
    padded = pad(token_ids, (len(before), len(tokens.after)), value=tokens.padding)
    padded[:, : len(before)] = padded.new_tensor(before)
    lengths = lengths + len(before)
    if tokens.separator != tokens.padding:
        is_inside = torch.arange(padded.shape[1], device=padded.device) < lengths
        padded = padded.masked_fill(is_inside & (padded == tokens.padding), tokens.separator)
    for token in tokens.after:
        padded = padded.scatter(1, lengths, token)
        lengths = lengths + 1
    return padded, lengths
