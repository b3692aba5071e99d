"""Says what features are worth that were learned without labels, by labelled ones: nearest neighbours, linear probe."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_PENALTY = 1e-4  # of the probe's squared weights
_ITERATIONS = 100  # of the probe's training at most


class LabelledFeatures(NamedTuple):
    """Features of examples, and their labels.

    Attributes:
        features: float32 [examples, features].
        labels: int64 [examples].
    """

    features: Tensor
    labels: Tensor


def neighbour_shares(
    queries: Tensor, bank: LabelledFeatures, num_classes: int, neighbours: int = 200, temperature: float = 0.1
) -> Tensor:
    """Lets the nearest of labelled features vote for the class of others, each by the exponential of its cosine.

    Args:
        queries: float32 [batch, features].
        bank: The labelled features.
        num_classes: Number of classes.
        neighbours: Number of nearest ones that vote, or all where there are fewer.
        temperature: Divides the cosines.

    Returns:
        Each class's share of the votes, float32 [batch, num_classes].

    Source:
        Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination, 2018. The temperature is
        that of lightly, and theirs 0.07.
    """
    cosines = F.normalize(queries, dim=1) @ F.normalize(bank.features, dim=1).T
    nearest, places = cosines.topk(min(neighbours, len(bank.labels)))
    votes = (nearest / temperature).softmax(1)
    return queries.new_zeros(len(queries), num_classes).scatter_add_(1, bank.labels[places], votes)


class LinearProbe:
    """A linear classifier of features that stay as they are: logistic regression, trained to its end by L-BFGS.

    The features are standardised first, and the squared weights count 0.0001. It draws nothing at random.

    Args:
        train: The labelled features to learn from.
        num_classes: Number of classes.

    Source:
        Kornblith et al., Do Better ImageNet Models Transfer Better?, 2019, who choose the penalty for each data set.
    """

    @torch.inference_mode(False)  # a validation's tensors have no gradient
    @torch.enable_grad()
    def __init__(self, train: LabelledFeatures, num_classes: int) -> None:
        features, labels = train.features.clone(), train.labels.clone()
        self._mean, self._std = features.mean(0), features.std(0, correction=0).clamp_min(1e-6)
        features = (features - self._mean) / self._std
        self._weight = torch.zeros(num_classes, features.shape[1], device=features.device, requires_grad=True)
        self._bias = torch.zeros(num_classes, device=features.device, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [self._weight, self._bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe", tolerance_grad=1e-5
        )

        def objective() -> Tensor:
            optimizer.zero_grad()
            logits = F.linear(features, self._weight, self._bias)
            loss = F.cross_entropy(logits, labels) + _PENALTY * self._weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(objective)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """Computes the logits of the classes.

        Args:
            features: float32 [batch, features].

        Returns:
            float32 [batch, num_classes].
        """
        return F.linear((features - self._mean) / self._std, self._weight, self._bias)


def effective_rank(features: Tensor) -> Tensor:
    """Computes how many directions features take, from 1 to their number.

    Args:
        features: float [examples, features].

    Returns:
        float32, a scalar: the exponential of the entropy of their singular values; 1 where all features are 0.

    Source:
        Garrido et al., RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by
        Their Rank, 2023.
    """
    squares = torch.linalg.eigvalsh(features.double().T @ features.double())
    shares = squares.clamp_min(0).sqrt()
    shares = shares / shares.sum().clamp_min(1e-12)
    rank: Tensor = torch.special.entr(shares).sum().exp().float()
    return rank


def spread(embeddings: Tensor) -> Tensor:
    """Computes how widely normalised embeddings are spread: about 1 where they point everywhere, 0 where all are alike.

    Args:
        embeddings: float [batch, outputs].

    Returns:
        float, a scalar: the standard deviation of each output over the batch, their mean, times the root of their
        number.

    Source:
        Chen and He, Exploring Simple Siamese Representation Learning, 2021, section 4.1.
    """
    deviation: Tensor = F.normalize(embeddings, dim=1).std(0, correction=0).mean()
    return deviation * math.sqrt(embeddings.shape[1])
