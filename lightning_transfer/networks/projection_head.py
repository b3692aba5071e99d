"""Projects features for a loss without labels, in the place of a network's head."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, distributed as dist, nn
from torch.distributed.nn.functional import all_gather

from lightning_transfer.errors import UserError


class ProjectionHead(nn.Module):
    """Gives the projections of features, what is predicted of them if anything, and the features, side by side.

    In training on several processes each computes all of it for the features of all, with gradients to where they come
    from. So negatives, correlations and the statistics of the norm layers here are those of the whole batch.

    Args:
        in_features: Number of features.
        widths: Number of outputs of each linear layer; all but the last are followed by a norm layer and ReLU.
        norm_at_end: Whether a norm layer follows the last one too.
        predictor_width: Number of hidden units of a predictor, two more linear layers, whose output is compared with
            the projection of the other view; None for no predictor.

    Raises:
        UserError: For fewer than one layer, and layers without outputs.
    """

    def __init__(
        self, in_features: int, widths: Sequence[int], norm_at_end: bool = False, predictor_width: int | None = None
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            raise UserError(f"model.projector is {[*widths]}: expected one number of outputs or more, at least 1 each")
        self.in_features, self.out_features = in_features, widths[-1]
        self.projector = _perceptron([in_features, *widths], norm_at_end)
        self.predictor: nn.Module | None = None
        if predictor_width is not None:
            self.predictor = _perceptron([widths[-1], predictor_width, widths[-1]], norm_at_end=False)

    def forward(self, features: Tensor) -> Tensor:
        """Computes all that a loss may need.

        Args:
            features: float [batch, in_features].

        Returns:
            float [batch, all], as :meth:`parts` takes it apart; in training [batch of all processes, all].
        """
        if self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            features = torch.cat(all_gather(features.contiguous()))  # type: ignore[no-untyped-call]
        projections = self.projector(features)
        predictions = [] if self.predictor is None else [self.predictor(projections)]
        return torch.cat([projections, *predictions, features], 1)

    def parts(self, outputs: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Takes the outputs apart: projections, what is predicted (None without a predictor), and features."""
        predicted = 0 if self.predictor is None else self.out_features
        sizes = [self.out_features, predicted, self.in_features]
        projections, predictions, features = torch.split(outputs, sizes, 1)
        return projections, predictions if predicted else None, features


def _perceptron(widths: Sequence[int], norm_at_end: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for place, (inputs, outputs) in enumerate(pairwise(widths)):
        is_last = place == len(widths) - 2
        has_norm = norm_at_end or not is_last
        layers.append(nn.Linear(inputs, outputs, bias=not has_norm))
        layers += [nn.BatchNorm1d(outputs)] * has_norm + [nn.ReLU(inplace=True)] * (not is_last)
    return nn.Sequential(*layers)
