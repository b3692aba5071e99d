"""What is measured when a classifier is evaluated."""

from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.aggregation import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassF1Score


class EvaluationMetrics(nn.Module):
    """Loss, accuracy, F1 score averaged over the classes, and expected calibration error with 15 bins.

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.loss = MeanMetric()
        scores: dict[str, Metric | MetricCollection] = {
            "accuracy": MulticlassAccuracy(num_classes, average="micro"),
            "macro_f1": MulticlassF1Score(num_classes, average="macro"),
            "calibration_error": MulticlassCalibrationError(num_classes, n_bins=15, norm="l1"),
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
