"""Losses by name, and the class probabilities that go with each loss of classification.

A loss of classification takes logits, float [batch, num_classes], or [batch, 1] for binary cross-entropy of two
classes. Its labels are int64 [batch], from 0, or the share of each class, float [batch, num_classes]. It gives the
mean of the batch, float, a scalar. Its method ``probabilities`` turns logits into probabilities, float32 [batch,
num_classes], at least 2 columns, with rows that sum to 1.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_transfer.errors import UserError

Loss = Literal["cross_entropy", "binary_cross_entropy", "mean_squared_error", "mean_absolute_error", "huber"]
LossMaker = Callable[[int, float], nn.Module]  # from the number of outputs and the label smoothing


class CrossEntropy(nn.CrossEntropyLoss):
    """Cross-entropy over the classes, as torch computes it; probabilities are a softmax.

    Args:
        num_classes: The number of classes.
        label_smoothing: Share of the target spread evenly over all classes (Szegedy et al., 2016).
    """

    def __init__(self, num_classes: int, label_smoothing: float = 0.0) -> None:
        super().__init__(label_smoothing=label_smoothing)

    def weighted(self, logits: Tensor, labels: Tensor, class_weights: Tensor) -> Tensor:
        """Computes the mean loss of a batch whose classes count by their weights, float [num_classes].

        It differs from torch's, which divides by the sum of the weights in the batch and not by the examples. So rare
        classes count alike in every batch, on any number of processes.
        """
        logits = logits.to(class_weights.dtype)
        total = F.cross_entropy(logits, labels, class_weights, reduction="sum", label_smoothing=self.label_smoothing)
        return total / len(labels)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Turns logits into probabilities."""
        return logits.float().softmax(1)


class _TargetLoss(nn.Module):
    """Compares each logit with a target of its own: the share of its class."""

    def __init__(self, num_classes: int, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing

    def targets(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Computes the smoothed share of each class, float [batch, num_classes]."""
        shares = labels if labels.is_floating_point() else F.one_hot(labels, self.num_classes)
        return shares.to(logits.dtype) * (1 - self.label_smoothing) + self.label_smoothing / self.num_classes


class BinaryCrossEntropy(_TargetLoss):
    """Binary cross-entropy of each class against the rest; two classes may share one logit.

    Probabilities are sigmoids divided by their sum. Classes of scores that float32 cannot tell apart come out equal.
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Computes the mean loss of a batch."""
        return self._mean(logits, labels)

    def weighted(self, logits: Tensor, labels: Tensor, class_weights: Tensor) -> Tensor:
        """Computes the mean loss of a batch whose examples count by the weights of their classes, [num_classes]."""
        return self._mean(logits.to(class_weights.dtype), labels, _of_examples(class_weights, labels))

    def _mean(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        targets = self.targets(logits, labels)
        return F.binary_cross_entropy_with_logits(logits, targets[:, -logits.shape[1] :], weights)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Turns logits into probabilities."""
        scores = logits.float().sigmoid()
        return torch.cat([1 - scores, scores], 1) if logits.shape[1] == 1 else _shares_of(scores)


class MeanSquaredError(_TargetLoss):
    """Squared distance to the one-hot label (Hui & Belkin, 2021: unscaled here).

    Probabilities are the logits, clipped to 0 and divided by their sum.
    """

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Computes the mean loss of a batch."""
        return F.mse_loss(logits, self.targets(logits, labels))

    def weighted(self, logits: Tensor, labels: Tensor, class_weights: Tensor) -> Tensor:
        """Computes the mean loss of a batch whose examples count by the weights of their classes, [num_classes]."""
        logits = logits.to(class_weights.dtype)
        return ((logits - self.targets(logits, labels)).square() * _of_examples(class_weights, labels)).mean()

    def probabilities(self, logits: Tensor) -> Tensor:
        """Turns logits into probabilities."""
        return _shares_of(logits.float().clamp(min=0))


class MultilabelBinaryCrossEntropy(nn.Module):
    """Binary cross-entropy of each class, where an example may have several.

    Args:
        num_classes: The number of classes.
        label_smoothing: Share of each label that is spread evenly over having the class and not.
    """

    def __init__(self, num_classes: int, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Computes the mean loss of a batch, of labels float [batch, num_classes]."""
        require_same_shape(logits, labels)
        targets = labels.to(logits.dtype) * (1 - self.label_smoothing) + self.label_smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, targets)


LOSSES: dict[Loss, LossMaker] = {
    "cross_entropy": CrossEntropy,
    "binary_cross_entropy": BinaryCrossEntropy,
    "mean_squared_error": MeanSquaredError,
}


def require_same_shape(logits: Tensor, labels: Tensor) -> None:
    """Refuses labels that are not one number for each output.

    Raises:
        UserError: For labels of another shape than the network's outputs.
    """
    if logits.shape != labels.shape:
        raise UserError(
            f"the labels of a batch are a tensor {[*labels.shape]}: expected {[*logits.shape]}, as the outputs of the"
            " network"
        )


def balanced_weights(counts: Tensor) -> Tensor:
    """Computes weights of classes that give each the same share of a training set, 1 in the mean over its examples.

    Args:
        counts: int64 [classes], the examples of each class; one without any gets 0.

    Returns:
        float32 [classes].
    """
    known = counts > 0
    return torch.where(known, counts.sum() / (known.sum() * counts.clamp(min=1)), 0.0).float()


def _of_examples(class_weights: Tensor, labels: Tensor) -> Tensor:
    """The weight of each example, float [batch, 1]; that of a mixed one is mixed alike."""
    if labels.is_floating_point():
        return labels.to(class_weights.dtype) @ class_weights[:, None]
    return class_weights[labels][:, None]


def _shares_of(scores: Tensor) -> Tensor:
    # The smallest positive score keeps a row without any from becoming 0 / 0.
    scores = scores + torch.finfo(scores.dtype).tiny
    return scores / scores.sum(1, keepdim=True)
