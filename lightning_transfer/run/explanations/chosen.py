"""Chooses the examples that are explained: those that are given, or the worst mistakes of the hold-out."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_transfer.data.batches import ProblemType
from lightning_transfer.data.splits import Split
from lightning_transfer.errors import UserError
from lightning_transfer.run.explanations.scores import Inputs
from lightning_transfer.run.predictor import Member


class Chosen(NamedTuple):
    """Examples of one split.

    Attributes:
        split: The split.
        rows: int64 [examples].
        outcomes: The probabilities or numbers that the run predicts, float32 [examples, classes].
    """

    split: Split[Any]
    rows: np.ndarray
    outcomes: Tensor

    @property
    def labels(self) -> Tensor:
        """The labels, as those of a split."""
        return self.split.labels[torch.from_numpy(self.rows)]

    @property
    def names(self) -> list[str]:
        """What each example is called."""
        return [str(self.split.names[row]) for row in self.rows]


def choose_given(member: Member, examples: Sequence[object]) -> Chosen:
    """Reads examples.

    Raises:
        UserError: For an example that cannot be read.
    """
    split = member.data.split_of(examples)
    rows = np.arange(len(split))
    return Chosen(split, rows, member.predict_rows(split, rows))


def choose_worst(member: Member, count: int) -> Chosen:
    """Finds the examples of the hold-out with the highest loss, the highest first.

    Args:
        member: The run, whose data has been read.
        count: How many.

    Raises:
        UserError: If nothing is held out.
    """
    split, rows = member.data.validation_part
    if not len(rows):
        raise UserError(f"{member.name} holds nothing out: expected --examples, pictures or texts to explain")
    outcomes = member.predict_rows(split, rows)
    losses = losses_of(outcomes, split.labels[torch.from_numpy(rows)], member.data.problem_type)
    worst = losses.topk(min(count, len(losses))).indices
    return Chosen(split, rows[worst.numpy()], outcomes[worst])


def losses_of(outcomes: Tensor, labels: Tensor, problem_type: ProblemType) -> Tensor:
    """Computes how wrong predictions are, float32 [examples]: cross-entropy of classes, the distance of numbers.

    Args:
        outcomes: Probabilities or numbers, float32 [examples, classes].
        labels: int64 [examples], or float32 [examples, classes].
        problem_type: What an example has.
    """
    if problem_type == "classification":
        return -outcomes.gather(1, labels.unsqueeze(1)).squeeze(1).clamp_min(1e-12).log()
    if problem_type == "multilabel":
        return torch.nn.functional.binary_cross_entropy(outcomes, labels, reduction="none").sum(1)
    return (outcomes - labels).abs().sum(1)


def inputs_of_rows(member: Member, split: Split[Any], rows: np.ndarray) -> Inputs:
    """Makes one batch of rows in their order: the inputs of the network, in float32, on its device."""
    return _in_float32(member.prepared(member.data.batch_maker(split)(rows)).inputs)


def batches_of_rows(member: Member, loader: Any) -> Iterator[Inputs]:
    """Makes the batches of a loader likewise."""
    return (_in_float32(member.prepared(batch).inputs) for batch in loader)


def _in_float32(inputs: Inputs) -> Inputs:
    return tuple(tensor.float() if tensor.is_floating_point() else tensor for tensor in inputs)
