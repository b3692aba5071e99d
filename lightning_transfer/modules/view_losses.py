"""Losses of two views of the same images, which need no labels."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_transfer.errors import UserError

ViewLossName = Literal["simclr", "barlow_twins", "simsiam"]


class ViewLoss(nn.Module):
    """A loss of the projections of two views, and the head that goes with it unless another is asked for.

    Attributes:
        projector: Number of outputs of each linear layer of the projector.
        norm_at_end: Whether the projections are normalised by a norm layer.
        predictor_width: Number of hidden units of a predictor. Where there is one, the loss is given what is predicted
            from one view, and the projection of the other, and then the other way round. None for no predictor.
    """

    projector: ClassVar[tuple[int, ...]] = (2048, 2048, 2048)
    norm_at_end: ClassVar[bool] = False
    predictor_width: ClassVar[int | None] = None


class SimCLRLoss(ViewLoss):
    """Tells the two views of an image from the views of all other images in the batch: the larger, the better.

    Args:
        temperature: Divides the cosine similarities: the lower, the more the nearest of the others count.

    Raises:
        UserError: For a temperature that is not above 0.

    Source:
        Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020: NT-Xent. The
        temperature is that for CIFAR-10.
    """

    projector = (512, 128)

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__()
        if not temperature > 0:
            raise UserError(f"model.loss.temperature is {temperature}: expected more than 0")
        self.temperature = temperature

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Computes the mean loss of projections, float [batch, outputs] each."""
        views = F.normalize(torch.cat([first, second]), dim=1)
        logits = views @ views.T / self.temperature
        logits = logits.masked_fill(torch.eye(len(views), dtype=torch.bool, device=views.device), -torch.inf)
        return F.cross_entropy(logits, torch.arange(len(views), device=views.device).roll(len(first)))


class BarlowTwinsLoss(ViewLoss):
    """Makes each output agree over the two views, and differ from all other outputs. It does without negatives.

    Args:
        redundancy_weight: Weight of the correlations between different outputs.

    Raises:
        UserError: For a weight below 0.

    Source:
        Zbontar et al., Barlow Twins: Self-Supervised Learning via Redundancy Reduction, 2021.
    """

    def __init__(self, redundancy_weight: float = 0.005) -> None:
        super().__init__()
        if not redundancy_weight >= 0:
            raise UserError(f"model.loss.redundancy_weight is {redundancy_weight}: expected 0 or more")
        self.redundancy_weight = redundancy_weight

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Computes the loss of projections, float [batch, outputs] each."""
        one, other = (F.batch_norm(views, None, None, training=True) for views in (first, second))
        squares = (one.T @ other / len(first) - torch.eye(first.shape[1], device=first.device)).square()
        agreement = squares.diagonal().sum()
        return agreement + self.redundancy_weight * (squares.sum() - agreement)


class SimSiamLoss(ViewLoss):
    """Predicts the projection of one view from the other, and keeps the gradient from the projection.

    It is here because it needs the least: no negatives and no large batch, as SimCLR does, no wide output, as Barlow
    Twins does, and no second network with a moving average and a queue, as BYOL, MoCo and DINO do. So a small batch on
    a CPU will do, and a checkpoint has nothing but one network. In turn it may collapse, which a run notices.

    Source:
        Chen and He, Exploring Simple Siamese Representation Learning, 2021.
    """

    norm_at_end = True
    predictor_width = 512

    def forward(self, predictions: Tensor, projections: Tensor) -> Tensor:
        """Computes the mean negative cosine of what is predicted from one view to the other's projection.

        Args:
            predictions: float [batch, outputs].
            projections: float [batch, outputs]; they get no gradient.
        """
        return -F.cosine_similarity(predictions, projections.detach(), dim=1).mean()


VIEW_LOSSES: dict[ViewLossName, type[ViewLoss]] = {
    "simclr": SimCLRLoss,
    "barlow_twins": BarlowTwinsLoss,
    "simsiam": SimSiamLoss,
}
