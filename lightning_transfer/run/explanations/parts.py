"""Divides images into tiles and texts into words: what sanity checks take away, and what people are shown."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_transfer.data.pretrained_tokenizer import SpecialTokens
from lightning_transfer.run.explanations.scores import Inputs

_TILES = 8  # along each side of an image


class Parts(Protocol):
    """Examples whose parts can be taken away.

    Attributes:
        inputs: The inputs of the network.
        rivals: Values of the parts of each example by simple rules that look at no network: name -> values.
        counts: The number of parts of each example.
    """

    inputs: Inputs
    rivals: dict[str, list[Tensor]]
    counts: list[int]

    def values(self, maps: Tensor) -> list[Tensor]:
        """Sums up attributions to the parts, float32 [parts] for each example."""

    def keep(self, kept: Sequence[Tensor]) -> Inputs:
        """Makes inputs with some parts alone.

        Args:
            kept: bool [parts] for each example.
        """


class Tiles:
    """Images in 8 x 8 tiles. A tile that is taken away gets the mean colour of the training images.

    Args:
        images: float32 [batch, 3, height, width], normalised.
    """

    def __init__(self, images: Tensor) -> None:
        self.inputs: Inputs = (images,)
        self._tiles = min(_TILES, *images.shape[2:])
        self.counts = [self._tiles**2] * len(images)
        self.rivals = {"edge detector": self.values(edges(images))}

    def values(self, maps: Tensor) -> list[Tensor]:
        """Averages maps, float32 [batch, height, width], over the tiles."""
        return [*F.adaptive_avg_pool2d(maps.unsqueeze(1), self._tiles).flatten(1)]

    def keep(self, kept: Sequence[Tensor]) -> Inputs:
        """Makes images with some tiles alone."""
        [images] = self.inputs
        grid = torch.stack([*kept]).view(-1, 1, self._tiles, self._tiles).to(images)
        return (images * F.interpolate(grid, images.shape[2:], mode="nearest"),)


class Words:
    """Texts in words. A text without some words is shorter, and one without any has the token for that.

    Args:
        token_ids: int64 [batch, time].
        lengths: int64 [batch].
        words: For each token of each text the number of its word, None for what marks documents.
        special: The tokens that mark what is not text.
    """

    def __init__(
        self, token_ids: Tensor, lengths: Tensor, words: Sequence[Sequence[int | None]], special: SpecialTokens
    ) -> None:
        self.inputs: Inputs = (token_ids, lengths)
        self._words, self._special = words, special
        self.counts = [1 + max((word for word in of_text if word is not None), default=-1) for of_text in words]
        self.rivals: dict[str, list[Tensor]] = {}

    def values(self, maps: Tensor) -> list[Tensor]:
        """Sums scores of tokens, float32 [batch, time], over the words."""
        found = []
        for row, of_text, count in zip(maps.cpu(), self._words, self.counts, strict=True):
            places = [place for place, word in enumerate(of_text) if word is not None]
            numbers = torch.tensor([word for word in of_text if word is not None], dtype=torch.int64)
            found.append(torch.zeros(count).index_add_(0, numbers, row[places].float()))
        return found

    def keep(self, kept: Sequence[Tensor]) -> Inputs:
        """Makes texts with some words alone, in their order."""
        token_ids, _ = self.inputs
        texts = []
        for row, of_text, which in zip(token_ids.tolist(), self._words, kept, strict=True):
            left = [token for token, word in zip(row, of_text, strict=False) if word is None or which[word]]
            if which.numel() and not which.any():
                place = next(place for place, word in enumerate(of_text) if word is not None)
                left.insert(place, self._special.unknown)
            texts.append(torch.tensor(left))
        padded = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=self._special.padding)
        return padded.to(token_ids.device), torch.tensor([*map(len, texts)], device=token_ids.device)


def edges(images: Tensor) -> Tensor:
    """Computes the strength of edges by Sobel's filters, float32 [batch, height, width]: it looks at no network."""
    gray = F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    rows = torch.tensor([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]], device=images.device)
    return F.conv2d(gray, torch.stack([rows, rows.t()]).unsqueeze(1)).square().sum(1).sqrt()
