"""Weighs the losses of several tasks: by fixed weights, and by the uncertainty of each."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from lightning_transfer.data.batches import ProblemType
from lightning_transfer.errors import UserError
from lightning_transfer.networks.task_heads import TaskHeads

Weighting = Literal["fixed", "uncertainty"]


def check_weights(given: Mapping[str, float] | None, tasks: Sequence[str]) -> dict[str, float]:
    """Completes the weights of the tasks: 1 where none is given.

    Raises:
        UserError: For a task that there is not, a weight below 0, and weights that are all 0.
    """
    for task, weight in (given or {}).items():
        if task not in tasks:
            raise UserError(f"model.loss_weights has {task!r}: expected tasks of {', '.join(tasks)}")
        if not 0 <= weight < math.inf:
            raise UserError(f"model.loss_weights.{task} is {weight}: expected a number, 0 or more")
    weights = dict.fromkeys(tasks, 1.0) | dict(given or {})
    if not any(weights.values()):
        raise UserError("model.loss_weights are all 0: expected one above 0, as nothing would be learned")
    return weights


def by_uncertainty(
    losses: Mapping[str, Tensor], heads: TaskHeads, problem_types: Mapping[str, ProblemType]
) -> dict[str, Tensor]:
    """Divides each loss by the variance of its task's noise, which is learned, and adds what keeps that from growing.

    With the logarithm s of the variance, a loss L becomes exp(-s) L + s / 2 in a classification, and exp(-s) L / 2 +
    s / 2 in a regression.

    Args:
        losses: The loss of each task of a step.
        heads: The heads, which have the variances of all tasks.
        problem_types: Those of the tasks with labels.

    Source:
        Kendall, Gal and Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
        Semantics, 2018. What is learned is the logarithm of the variance, as there.
    """
    # All at once: then each of them has a gradient in every step, which DDP needs.
    logarithms = dict(zip(heads.log_variances, torch.cat([*heads.log_variances.values()]), strict=True))
    halves = {task: 0.5 if problem_types.get(task) == "regression" else 1.0 for task in losses}
    return {
        task: halves[task] * (-logarithms[task]).exp() * loss + logarithms[task] / 2 for task, loss in losses.items()
    }
