"""Metrics that are the same to the last digit on any number of processes: their sums are added up in one order."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassCalibrationError, MulticlassF1Score
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


class MacroF1Score(MulticlassF1Score):
    """The F1 score averaged over the classes, in memory that grows with their number.

    torchmetrics counts the pairs of label and prediction, which for 30,000 classes takes 7 GB.
    """

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Adds a batch.

        Args:
            predictions: float [batch, classes].
            labels: int64 [batch], from 0.
        """
        predicted = predictions.argmax(1)
        is_right = (predicted == labels).long()
        nothing = labels.new_zeros(predictions.shape[1])
        right = nothing.index_add(0, labels, is_right)
        wrong = nothing.index_add(0, predicted, 1 - is_right)
        missed = nothing.index_add(0, labels, 1 - is_right)
        self._update_state(right, wrong, len(labels) - right - wrong - missed, missed)


class _ExactErrors(Metric):
    """Keeps predictions and labels, float [batch, numbers] each."""

    predictions: list[Tensor]
    labels: list[Tensor]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("predictions", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Adds a batch."""
        self.predictions.append(predictions.detach())
        self.labels.append(labels)

    def _errors(self) -> Tensor:
        """The absolute errors, float [examples, numbers], rising in each column."""
        return (dim_zero_cat(self.predictions) - dim_zero_cat(self.labels)).abs().sort(0).values


class MeanAbsoluteError(_ExactErrors):
    """The mean absolute error, over all numbers."""

    is_differentiable, higher_is_better, full_state_update = True, False, False

    def compute(self) -> Tensor:
        """Computes the error."""
        return self._errors().mean(0).mean()


class RootMeanSquaredError(_ExactErrors):
    """The root of the mean squared error, over all numbers."""

    is_differentiable, higher_is_better, full_state_update = True, False, False

    def compute(self) -> Tensor:
        """Computes the error."""
        return self._errors().square().mean(0).mean().sqrt()


class ExplainedShare(_ExactErrors):
    """The coefficient of determination, R²: the share of the variance that is explained, as a mean over the numbers.

    It is not a number where all labels are equal.
    """

    is_differentiable, higher_is_better, full_state_update = True, True, False

    def compute(self) -> Tensor:
        """Computes the share."""
        labels = dim_zero_cat(self.labels).sort(0).values
        variance = (labels - labels.mean(0)).square().mean(0)
        return (1 - self._errors().square().mean(0) / variance).mean()
