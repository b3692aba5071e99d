"""What is measured of several tasks when a module is evaluated."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_transfer.data.batches import ProblemType
from lightning_transfer.modules.exact_metrics import ExactMean
from lightning_transfer.modules.metrics import EvaluationMetrics
from lightning_transfer.modules.targets import TARGETS


class TaskMetrics(nn.ModuleDict):
    """The metrics of each task, and their plain means over the tasks with labels.

    Args:
        outputs: Number of classes, or of the numbers to predict, of each task with labels.
        problem_types: What each example of such a task has.
        language_tasks: The tasks that predict tokens.
        left_out: Tasks that are not in the means.

    Attributes:
        shown: The names of the metrics that are shown in the progress line.
    """

    def __init__(
        self,
        outputs: Mapping[str, int],
        problem_types: Mapping[str, ProblemType],
        language_tasks: Collection[str],
        left_out: Collection[str] = (),
    ) -> None:
        labelled = {task: EvaluationMetrics(number, problem_types[task]) for task, number in outputs.items()}
        super().__init__({**labelled, **{task: TokenMetrics() for task in language_tasks}})
        self._in_means = [task for task in labelled if task not in left_out] or list(labelled)
        chosen = {task: TARGETS[problem_types[task]].chosen_by[0] for task in labelled}
        self.shown = {"loss", "accuracy", *(f"{task}/{name}" for task, name in chosen.items())}
        self.shown |= {f"{task}/perplexity" for task in language_tasks}

    def compute_and_reset(self) -> dict[str, Tensor]:
        """Computes the metrics over all batches, on all processes together, and starts anew.

        Returns:
            ``<task>/<name>`` of each task that was evaluated. ``<name>`` is the mean over the tasks with labels that
            are not left out, where all of them have it.
        """
        own: dict[str, Any] = dict(self.items())
        evaluated = {task: one.compute_and_reset() for task, one in own.items() if one.loss.update_called}
        found = {f"{task}/{name}": value for task, values in evaluated.items() for name, value in values.items()}
        labelled = [evaluated[task] for task in self._in_means if task in evaluated]
        for name in labelled[0] if labelled else ():
            if all(name in values for values in labelled):
                found[name] = torch.stack([values[name] for values in labelled]).mean()
        return found


class TokenMetrics(nn.Module):
    """The loss and the perplexity over all tokens of an evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = ExactMean()

    def update(self, losses: Tensor) -> None:
        """Adds the loss of each token of a batch, float [tokens]; there may be none."""
        if len(losses):
            self.loss.update(losses.mean(), weight=len(losses))

    def compute_and_reset(self) -> dict[str, Tensor]:
        """Computes both over all batches, on all processes together, and starts anew."""
        loss: Tensor = self.loss.compute()
        self.loss.reset()
        return {"loss": loss, "perplexity": loss.exp()}
