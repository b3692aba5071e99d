"""What a module predicts of each example, one class, several, or numbers, and what follows: losses, scores, outputs."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import (
    MulticlassAccuracy,
    MultilabelAveragePrecision,
    MultilabelExactMatch,
    MultilabelF1Score,
)

from lightning_transfer.data.batches import ProblemType
from lightning_transfer.errors import UserError
from lightning_transfer.modules.exact_metrics import (
    ExactCalibrationError,
    ExplainedShare,
    MacroF1Score,
    MeanAbsoluteError,
    RootMeanSquaredError,
)
from lightning_transfer.modules.losses import LOSSES, Loss, LossMaker, MultilabelBinaryCrossEntropy, require_same_shape


def count_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Counts the examples that are predicted correctly; of a mixed one, the share of it that is.

    Args:
        logits: float [batch, num_classes], or [batch, 1] for binary cross-entropy of two classes.
        labels: int64 [batch], or the share of each class, float [batch, num_classes].

    Returns:
        float32, a scalar.
    """
    predicted = (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)
    if labels.is_floating_point():
        return labels.gather(1, predicted.unsqueeze(1)).sum(dtype=torch.float32)
    return (predicted == labels).sum(dtype=torch.float32)


class Targets(ABC):
    """What follows from a problem type.

    Attributes:
        noun: What the outputs of a network are of.
        least: The smallest number of them.
        losses: The losses with a name, the first of them where none is given.
        training_score: The name of the score in the training log.
        chosen_by: The score that the best checkpoint is chosen by, and whether it is to be low (min) or high (max).
    """

    noun: ClassVar[str]
    least: ClassVar[int]
    losses: ClassVar[Mapping[Loss, LossMaker]]
    training_score: ClassVar[str]
    chosen_by: ClassVar[tuple[str, str]]

    @abstractmethod
    def sum_of_scores(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Adds up the training score of a batch: float32, a scalar."""

    @abstractmethod
    def predictions(self, logits: Tensor) -> Tensor:
        """Turns the outputs of a network into probabilities or numbers, float32 [batch, outputs]."""

    @abstractmethod
    def scores(self, outputs: int) -> dict[str, Metric]:
        """Makes the scores of an evaluation."""

    def taken(self, labels: Tensor, outputs: int) -> Tensor:
        """Gives labels as losses take them.

        Args:
            labels: Labels of a batch, as the data gives them.
            outputs: Number of classes, or of the numbers to predict.

        Raises:
            UserError: For labels that no loss of this problem type takes.
        """
        return labels

    @abstractmethod
    def counted(self, labels: Tensor) -> Tensor:
        """Gives labels as scores take them."""

    @abstractmethod
    def loss_of(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """Computes the mean loss of predictions, float, a scalar: what their average is judged by."""

    @abstractmethod
    def example(self, outputs: int) -> tuple[Tensor, Tensor]:
        """Makes logits and labels of sixteen examples, to try a loss or a score on."""


class OneClass(Targets):
    """One class of each example: a label is its number."""

    noun = "classes"
    least = 2
    losses = LOSSES
    training_score = "accuracy"
    chosen_by = ("accuracy", "max")

    sum_of_scores = staticmethod(count_correct)

    def taken(self, labels: Tensor, outputs: int) -> Tensor:
        """Gives labels as int64; shares of mixed examples stay."""
        if labels.is_floating_point() and labels.ndim == 2 and labels.shape[1] == outputs:
            return labels
        if labels.is_floating_point() or labels.ndim != 1:
            kind = f"{str(labels.dtype).removeprefix('torch.')} {[*labels.shape]}"
            raise UserError(f"the labels of a batch are {kind}: expected int64 [batch], each the number of a class")
        labels = labels.long()
        if labels.device.type == "cpu" and len(labels):  # elsewhere it would wait for the device
            low, high = (int(label) for label in labels.aminmax())
            if low < 0 or high >= outputs:
                wrong = low if low < 0 else high
                raise UserError(f"a label is {wrong}: expected 0 to {outputs - 1}, as model.num_classes is {outputs}")
        return labels

    def predictions(self, logits: Tensor) -> Tensor:
        """Turns logits into probabilities."""
        return logits.float().softmax(1)

    def scores(self, outputs: int) -> dict[str, Metric]:
        """Makes accuracy, F1 score averaged over the classes, and expected calibration error with 15 bins."""
        return {
            "accuracy": MulticlassAccuracy(outputs, average="micro"),
            "macro_f1": MacroF1Score(outputs),
            "calibration_error": ExactCalibrationError(outputs, n_bins=15, norm="l1"),
        }

    def counted(self, labels: Tensor) -> Tensor:
        """Gives labels as they are."""
        return labels

    def loss_of(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """Computes the negative log-likelihood."""
        # As small as float32 can be: a label thought impossible costs much, not everything.
        return F.nll_loss(predictions.clamp_min(torch.finfo(torch.float32).tiny).log(), labels)

    def example(self, outputs: int) -> tuple[Tensor, Tensor]:
        """Makes logits and labels."""
        return _numbers(outputs), torch.arange(16) % outputs


class SeveralClasses(Targets):
    """Any number of classes of each example: a label is 1 for each that it has, and 0 for each other."""

    noun = "classes"
    least = 2
    losses: ClassVar[Mapping[Loss, LossMaker]] = {"binary_cross_entropy": MultilabelBinaryCrossEntropy}
    training_score = "subset_accuracy"
    chosen_by = ("mean_average_precision", "max")

    def sum_of_scores(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Counts the examples all of whose classes are predicted correctly."""
        require_same_shape(logits, labels)
        return ((logits > 0) == (labels > 0.5)).all(1).sum(dtype=torch.float32)

    def predictions(self, logits: Tensor) -> Tensor:
        """Turns logits into the probability of each class."""
        return logits.float().sigmoid()

    def scores(self, outputs: int) -> dict[str, Metric]:
        """Makes subset accuracy, F1 scores, over all labels and averaged over the classes, and average precision."""
        return {
            "subset_accuracy": MultilabelExactMatch(outputs),
            "micro_f1": MultilabelF1Score(outputs, average="micro"),
            "macro_f1": MultilabelF1Score(outputs, average="macro"),
            "mean_average_precision": MultilabelAveragePrecision(outputs, average="macro"),
        }

    def counted(self, labels: Tensor) -> Tensor:
        """Gives labels as integers."""
        return labels.long()

    def loss_of(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """Computes the binary cross-entropy."""
        return F.binary_cross_entropy(predictions, labels)

    def example(self, outputs: int) -> tuple[Tensor, Tensor]:
        """Makes logits and labels."""
        return _numbers(outputs), (torch.arange(16)[:, None] // 2 + torch.arange(outputs)) % 2 * 1.0


class Numbers(Targets):
    """One or several numbers of each example."""

    noun = "numbers"
    least = 1
    losses: ClassVar[Mapping[Loss, LossMaker]] = {
        "mean_squared_error": lambda outputs, smoothing: nn.MSELoss(),
        "mean_absolute_error": lambda outputs, smoothing: nn.L1Loss(),
        "huber": lambda outputs, smoothing: nn.HuberLoss(),
    }
    training_score = "mae"
    chosen_by = ("rmse", "min")

    def sum_of_scores(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Adds up the absolute error of the examples, each a mean over its numbers."""
        require_same_shape(logits, labels)  # torch's losses would compare each example with all others
        return (logits - labels).abs().mean(1).sum(dtype=torch.float32)

    def predictions(self, logits: Tensor) -> Tensor:
        """Gives the numbers as they are."""
        return logits.float()

    def scores(self, outputs: int) -> dict[str, Metric]:
        """Makes mean absolute error, root of the mean squared error, and R²."""
        return {"mae": MeanAbsoluteError(), "rmse": RootMeanSquaredError(), "r2": ExplainedShare()}

    def counted(self, labels: Tensor) -> Tensor:
        """Gives labels as they are."""
        return labels

    def loss_of(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """Computes the mean squared error."""
        return F.mse_loss(predictions, labels)

    def example(self, outputs: int) -> tuple[Tensor, Tensor]:
        """Makes numbers to compare."""
        return _numbers(outputs), _numbers(outputs).flip(0)


TARGETS: dict[ProblemType, Targets] = {
    "classification": OneClass(),
    "multilabel": SeveralClasses(),
    "regression": Numbers(),
}


def _numbers(outputs: int) -> Tensor:
    return torch.randn(16, outputs, generator=torch.Generator().manual_seed(0))


def refuse_rounded_labels(precision: str, problem_types: Iterable[ProblemType]) -> None:
    """Refuses a precision that rounds the numbers to predict, also where they are compared with predictions.

    Args:
        precision: That of the trainer. Lightning brings all numbers of a batch to that of the weights.
        problem_types: What the examples of each task have.

    Raises:
        UserError: For numbers to predict in 16 bits.
    """
    if precision in ("bf16-true", "16-true") and "regression" in problem_types:
        raise UserError(
            f"trainer.precision is {precision}: expected {precision.replace('true', 'mixed')} with data.problem_type"
            " regression, as it rounds the numbers to predict"
        )
