"""Losses for classification, and the class probabilities that go with each."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Literal["cross_entropy", "binary_cross_entropy", "mean_squared_error"]


def classification_loss(logits: Tensor, labels: Tensor, loss: Loss, num_classes: int, label_smoothing: float) -> Tensor:
    """Computes the mean loss of a batch.

    Args:
        logits: float [batch, num_classes], or [batch, 1] for binary cross-entropy of two classes.
        labels: int64 [batch], from 0; or the share of each class, float [batch, num_classes].
        loss: Cross-entropy over the classes, binary cross-entropy of each class against the rest, or the squared
            distance to the one-hot label (Hui & Belkin, 2021: unscaled here).
        num_classes: The number of classes, 2 where there is one logit.
        label_smoothing: Share of the target spread evenly over all classes (Szegedy et al., 2016).

    Returns:
        float, a scalar.
    """
    if loss == "cross_entropy":
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    shares = labels if labels.is_floating_point() else F.one_hot(labels, num_classes)
    targets = shares.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / num_classes
    if loss == "mean_squared_error":
        return F.mse_loss(logits, targets)
    return F.binary_cross_entropy_with_logits(logits, targets[:, -logits.shape[1] :])


def class_probabilities(logits: Tensor, loss: Loss) -> Tensor:
    """Turns logits into probabilities.

    Args:
        logits: float [batch, num_classes], or [batch, 1] for binary cross-entropy of two classes.
        loss: The loss that the logits were trained with.

    Returns:
        float32 [batch, num_classes], at least 2 columns, rows summing to 1. Independent scores (one class against the
        rest, squared error) are clipped to 0 and divided by their sum; classes of scores that float32 cannot tell
        apart, because several are 1 or clipped, come out equal.
    """
    logits = logits.float()
    if loss == "cross_entropy":
        return logits.softmax(1)
    if logits.shape[1] == 1:
        positive = logits.sigmoid()
        return torch.cat([1 - positive, positive], 1)
    scores = logits.sigmoid() if loss == "binary_cross_entropy" else logits.clamp(min=0)
    # The smallest positive score keeps a row without any from becoming 0 / 0.
    scores = scores + torch.finfo(scores.dtype).tiny
    return scores / scores.sum(1, keepdim=True)


def predicted_classes(logits: Tensor) -> Tensor:
    """Chooses the class of each example.

    Args:
        logits: float [batch, num_classes], or [batch, 1] for binary cross-entropy of two classes.

    Returns:
        int64 [batch].
    """
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)


def count_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Counts the examples that are predicted correctly; of a mixed one, the share of it that is.

    Args:
        logits: float [batch, num_classes], or [batch, 1] for binary cross-entropy of two classes.
        labels: int64 [batch], or the share of each class, float [batch, num_classes].

    Returns:
        float32, a scalar.
    """
    predicted = predicted_classes(logits)
    if labels.is_floating_point():
        return labels.gather(1, predicted.unsqueeze(1)).sum(dtype=torch.float32)
    return (predicted == labels).sum(dtype=torch.float32)
