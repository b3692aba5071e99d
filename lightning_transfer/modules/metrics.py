"""What is measured when a module is evaluated."""

from collections.abc import Mapping

from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lightning_transfer.data.batches import ProblemType
from lightning_transfer.modules.exact_metrics import ExactMean
from lightning_transfer.modules.targets import TARGETS


class EvaluationMetrics(nn.Module):
    """The loss, the scores of the problem type, and scores of the user's.

    Args:
        num_classes: Number of classes, or of the numbers to predict.
        problem_type: What each example has.
        own: Scores of the user's, by name; each is copied.
    """

    def __init__(
        self,
        num_classes: int,
        problem_type: ProblemType = "classification",
        own: Mapping[str, Metric] | None = None,
    ) -> None:
        super().__init__()
        self.own = dict(own or {})
        self.loss = ExactMean()
        scores: dict[str, Metric | MetricCollection] = {**TARGETS[problem_type].scores(num_classes)}
        self.scores = MetricCollection(scores | {name: metric.clone() for name, metric in self.own.items()})

    def update(self, loss: Tensor, predictions: Tensor, labels: Tensor) -> None:
        """Adds a batch.

        Args:
            loss: float, the mean over the batch.
            predictions: float [batch, num_classes], probabilities of the classes, or numbers.
            labels: int64 [batch]; with several classes or numbers float [batch, num_classes].
        """
        self.loss.update(loss, weight=len(labels))
        self.scores.update(predictions, labels)

    def compute_and_reset(self) -> dict[str, Tensor]:
        """Computes the metrics over all batches, on all processes together, and starts anew."""
        values = {"loss": self.loss.compute(), **self.scores.compute()}
        self.loss.reset()
        self.scores.reset()
        return values
