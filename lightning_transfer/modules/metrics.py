"""What is measured when a classifier is evaluated."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassF1Score
from torchmetrics.utilities import dim_zero_cat


class ExactMean(Metric):
    """A weighted mean of batches that is the same to the last digit on any number of processes.

    Sums in floating point depend on their order: the values are kept, and sorted before they are added.
    """

    totals: list[Tensor]
    weights: list[Tensor]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("totals", default=[], dist_reduce_fx="cat")
        self.add_state("weights", default=[], dist_reduce_fx="cat")

    def update(self, value: Tensor, weight: int) -> None:
        """Adds the mean of a batch of ``weight`` examples."""
        # One dimension: torchmetrics gathers a single value without one otherwise than several from another process.
        self.totals.append((value.detach() * weight).reshape(1))
        self.weights.append(torch.full((1,), weight, device=value.device))

    def compute(self) -> Tensor:
        """Computes the mean."""
        return dim_zero_cat(self.totals).sort().values.sum() / dim_zero_cat(self.weights).sum()


_BELOW_ONE = 1 - 2**-24  # the largest float32


class ExactCalibrationError(MulticlassCalibrationError):
    """The expected calibration error, the same to the last digit on any number of processes: added up in an order.

    A confidence of 1 is in the last bin, where torchmetrics has one more bin for it.
    """

    def compute(self) -> Tensor:
        """Computes the error."""
        confidences, order = dim_zero_cat(self.confidences).clamp(max=_BELOW_ONE).sort()
        # Hits among equal confidences may come in any order: they are added up as whole numbers.
        self.confidences, self.accuracies = [confidences], [dim_zero_cat(self.accuracies)[order]]
        return super().compute()


class EvaluationMetrics(nn.Module):
    """Loss, accuracy, F1 score averaged over the classes, and expected calibration error with 15 bins.

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.loss = ExactMean()
        scores: dict[str, Metric | MetricCollection] = {
            "accuracy": MulticlassAccuracy(num_classes, average="micro"),
            "macro_f1": MulticlassF1Score(num_classes, average="macro"),
            "calibration_error": ExactCalibrationError(num_classes, n_bins=15, norm="l1"),
        }
        self.scores = MetricCollection(scores)

    def update(self, loss: Tensor, probabilities: Tensor, labels: Tensor) -> None:
        """Adds a batch.

        Args:
            loss: float, the mean over the batch.
            probabilities: float [batch, num_classes].
            labels: int64 [batch].
        """
        self.loss.update(loss, weight=len(labels))
        self.scores.update(probabilities, labels)

    def compute_and_reset(self) -> dict[str, Tensor]:
        """Computes the metrics over all batches, on all processes together, and starts anew."""
        values = {"loss": self.loss.compute(), **self.scores.compute()}
        self.loss.reset()
        self.scores.reset()
        return values
