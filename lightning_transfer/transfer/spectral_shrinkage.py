"""Keeps a fine-tuned network from features that do not transfer: batch spectral shrinkage, BSS."""

import torch
from torch import Tensor

from lightning_transfer.transfer.feature_penalty import FeaturePenalty
from lightning_transfer.transfer.value_checks import check_amount, check_count


class SpectralShrinkage(FeaturePenalty):
    """Adds a penalty to the loss: strength times the squared smallest singular values of a training batch's features.

    The features are what the head, the last layer group, is given. Directions in which they hardly vary carry little
    that transfers, and are shrunk. No logged loss has the penalty. What is below a frozen body stays as it is.

    Args:
        strength: Weight of the penalty.
        count: How many singular values are penalised, the smallest ones of each batch.

    Raises:
        UserError: If a value is out of range. On ``fit``, if the module steps its optimizers by hand. In the first
            step, if the head is given no features.

    Source:
        Chen et al., Catastrophic Forgetting Meets Negative Transfer: Batch Spectral Shrinkage for Safe Transfer
        Learning, 2019.
    """

    def __init__(self, strength: float = 0.001, count: int = 1) -> None:
        check_amount("strength", strength)
        check_count("count", count)
        self.strength, self.count = strength, count

    def penalty(self, features: Tensor) -> Tensor:
        """Computes the penalty of a batch.

        Args:
            features: float [batch, ...].
        """
        if not features.isfinite().all():  # the step has no finite loss, and is skipped
            return features.sum() * 0
        values = torch.linalg.svdvals(features.flatten(1).float())
        penalty: Tensor = self.strength * values[-self.count :].square().sum()
        return penalty
