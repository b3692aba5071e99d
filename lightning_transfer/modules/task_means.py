"""Adds up the losses and scores of several tasks over a logging interval, for the training log."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_transfer.modules.targets import Targets


class TaskMeans:
    """The sums since the last log: of each task's losses and scores, and of what was minimised.

    Args:
        targets: What is predicted in each task with labels, by name.
        language_tasks: The tasks that predict tokens.
    """

    def __init__(self, targets: Mapping[str, Targets], language_tasks: Sequence[str] = ()) -> None:
        self._targets = targets
        self._places = {task: place for place, task in enumerate([*targets, *language_tasks, "train"])}
        # A tensor, which no step has to read; not a buffer, which gets the precision of the weights.
        self._sums = torch.zeros(len(self._places), 2)
        self._seen = {"batches": [0] * len(self._sums), "examples": [0] * len(self._sums)}

    def to(self, device: torch.device) -> None:
        """Moves the sums to a device."""
        self._sums = self._sums.to(device)

    def add(self, task: str, loss: Tensor, logits: Tensor | None, labels: Tensor) -> None:
        """Adds the batch of a task, with the mean of its losses; without logits for tokens."""
        self._add(task, loss, len(labels))
        if logits is None:
            return
        self._sums[self._places[task], 1].add_(self._targets[task].sum_of_scores(logits.detach(), labels))

    def add_minimised(self, loss: Tensor) -> None:
        """Adds what a step has minimised."""
        self._add("train", loss, 1)

    def _add(self, name: str, loss: Tensor, examples: int) -> None:
        place = self._places[name]
        self._sums[place, 0].add_(loss.detach())
        self._seen["batches"][place] += 1
        self._seen["examples"][place] += examples

    def clear(self) -> None:
        """Forgets all."""
        self._sums.zero_()
        self._seen = {name: [0] * len(self._sums) for name in self._seen}

    def compute(self) -> dict[str, Tensor]:
        """Computes the means of the tasks that were seen, by the names in the log; nothing where none was."""
        means = {}
        batches, examples = self._seen["batches"], self._seen["examples"]
        for task, place in self._places.items():
            if batches[place] and task != "train":
                means[f"train/{task}/loss"] = self._sums[place, 0] / batches[place]
            if batches[place] and task in self._targets:
                means[f"train/{task}/{self._targets[task].training_score}"] = self._sums[place, 1] / examples[place]
        return means | ({"train/loss": self._sums[-1, 0] / batches[-1]} if batches[-1] else {})

    def state(self, of_processes: Callable[[Tensor], list[list[float]]]) -> dict[str, Any]:
        """Gives the sums for a checkpoint, by what collects those of each process."""
        return {"sums": of_processes(self._sums.flatten()), **self._seen}

    def load(self, state: Mapping[str, Any], own: Callable[[list[list[float]]], list[float]]) -> None:
        """Goes on with saved sums, by what takes this process's part of them."""
        self._sums.copy_(torch.tensor(own(state["sums"])).view_as(self._sums))
        self._seen = {name: list(state[name]) for name in self._seen}
