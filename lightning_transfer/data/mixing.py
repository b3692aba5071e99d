"""Blends training images with each other by mixup and CutMix, on the device, with randomness per example."""

from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_transfer.data.augment import uniform
from lightning_transfer.errors import UserError

_TABLE_SIZE = 1 << 16


@dataclass(frozen=True)
class Mixing:
    """Mixes each training image, and its label, with its neighbour in the batch.

    With both alphas above 0, each image is mixed in one of the two ways, which are equally likely. As in
    ``lightning_transfer.data.augment``, all draws are a hash of seed, epoch and row.

    Args:
        mixup_alpha: Blends the pixels (mixup: Zhang et al., 2018) by a share drawn from Beta(alpha, alpha); 0 turns it
            off. Common values are 0.2 to 1.
        cutmix_alpha: Pastes a rectangle of the neighbour (CutMix: Yun et al., 2019) whose area is drawn from
            Beta(alpha, alpha); 0 turns it off. A common value is 1.

    Raises:
        UserError: For a negative alpha, and if both are 0.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0

    def __post_init__(self) -> None:
        for name in ("mixup_alpha", "cutmix_alpha"):
            if getattr(self, name) < 0:
                raise UserError(f"mixing.{name} is {getattr(self, name)}: expected 0 or more")
        if not self.mixup_alpha and not self.cutmix_alpha:
            raise UserError("mixing.mixup_alpha and mixing.cutmix_alpha are both 0: give one above 0, or no mixing")

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        *,
        num_classes: int,
        seed: int,
        epoch: int,
        total: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mixes a batch.

        Args:
            images: float [batch, channels, height, width].
            labels: int64 [batch], from 0; or several classes or numbers for each image, float [batch, ...].
            indices: int64 [batch], the row of each image. Its random draws depend on row, seed and epoch.
            num_classes: Number of classes.
            seed: Another seed gives other draws.
            epoch: Another epoch gives other draws.
            total: Number of rows. If given, the draws of an epoch are made at once.

        Returns:
            Images like ``images``, and the share of each class in them, float32 [batch, num_classes]; numbers are mixed
            as they are.
        """
        draw = partial(uniform, indices, seed, epoch, total=total)
        # The numbers of the draws begin at 5, because the augmentation of the same images uses 0 to 4.
        cuts = draw(5) < (0.5 if self.mixup_alpha else 1.0) * bool(self.cutmix_alpha)
        place = (draw(6) * _TABLE_SIZE).long()
        blended = self._own_share(self.mixup_alpha, place)[:, None, None, None]
        box = _boxes(self._own_share(self.cutmix_alpha, place), images, (draw(7), draw(8)))
        own = torch.where(cuts[:, None, None, None], 1 - box.to(images.dtype), blended.to(images.dtype))
        share = own.mean((2, 3)).float()
        targets = labels if labels.is_floating_point() else F.one_hot(labels, num_classes).float()
        return torch.lerp(images.roll(1, 0), images, own), torch.lerp(targets.roll(1, 0), targets, share)

    def _own_share(self, alpha: float, place: Tensor) -> Tensor:
        return _beta_sample(alpha, place.device)[place] if alpha else torch.ones_like(place, dtype=torch.float32)


@cache
def _beta_sample(alpha: float, device: torch.device) -> Tensor:
    """Returns a large fixed sample of Beta(alpha, alpha): a value at a uniform place is a draw."""
    return torch.from_numpy(np.random.default_rng(0).beta(alpha, alpha, _TABLE_SIZE)).float().to(device)


def _boxes(own_share: Tensor, images: Tensor, places: tuple[Tensor, Tensor]) -> Tensor:
    """Marks a rectangle around a random centre, cut off at the borders: bool [batch, 1, height, width]."""
    inside = []
    for place, size in zip(places, images.shape[2:], strict=True):
        centre = place * size
        half = (1 - own_share).sqrt() * size / 2
        pixel = torch.arange(size, device=images.device) + 0.5
        inside.append((pixel - centre[:, None]).abs() < half[:, None])
    return (inside[0][:, :, None] & inside[1][:, None, :]).unsqueeze(1)
