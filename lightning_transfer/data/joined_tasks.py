"""What is known of several tasks together before a batch of any is read: outputs, classes, vocabulary and sizes."""

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor

from lightning_transfer.data.batches import ProblemType
from lightning_transfer.data.classification import ClassificationDataModule
from lightning_transfer.data.language_modelling import LanguageModelDataModule
from lightning_transfer.data.seeding import SeededDataModule
from lightning_transfer.data.task_mixing import TaskMixing
from lightning_transfer.data.vocabulary import TokenizedTexts, share_vocabulary
from lightning_transfer.errors import UserError, with_options_of_task

Found = TypeVar("Found")


class JoinedTasks(SeededDataModule):
    """The tasks of a :class:`MultiTaskDataModule`, and what a model needs to know of them."""

    tasks: dict[str, Any]  # by classes that check_tasks allows
    same_examples: dict[str, str]
    mixing: TaskMixing
    predict_task: str | None
    _steps: dict[str, int]  # of an epoch, by task

    @property
    def labelled(self) -> dict[str, ClassificationDataModule[Any]]:
        """The data of the tasks with labels."""
        return {name: task for name, task in self.tasks.items() if isinstance(task, ClassificationDataModule)}

    @property
    def language_tasks(self) -> list[str]:
        """The tasks that predict the tokens of texts."""
        return [name for name, task in self.tasks.items() if isinstance(task, LanguageModelDataModule)]

    @property
    def _with_examples(self) -> dict[str, ClassificationDataModule[Any]]:
        """The data of the tasks that have labels, and examples of their own."""
        return {name: task for name, task in self.labelled.items() if name not in self.same_examples}

    def _examples_of(self, name: str) -> str:
        """The task whose examples a task has: itself, or another one."""
        return self.same_examples.get(name, name)

    @property
    def _trained(self) -> dict[str, Any]:
        """The data that gives batches to train on."""
        return {name: task for name, task in self.tasks.items() if name not in self.same_examples}

    @property
    def _texts(self) -> list[TokenizedTexts]:
        return [task for task in self.tasks.values() if isinstance(task, TokenizedTexts)]

    def _ask(self, ask: Callable[[Any], Found], tasks: Iterable[str]) -> dict[str, Found]:
        """Asks the data of some tasks for something. A mistake in it names the options as they are given for a task."""
        found = {}
        for name in tasks:
            with with_options_of_task(name):
                found[name] = ask(self.tasks[name])
        return found

    # ---- what the model needs to know -------------------------------------------------------------------------------

    @property
    def outputs(self) -> dict[str, int]:
        """The number of classes, or of the numbers to predict, of each task with labels."""
        return self._ask(lambda task: task.num_classes, self.labelled)

    @property
    def num_classes(self) -> int:
        """The number of outputs of all tasks together."""
        return sum(self.outputs.values())

    @property
    def problem_types(self) -> dict[str, ProblemType]:
        """Whether the examples of each task with labels have one class, several classes or numbers."""
        return {name: task.problem_type for name, task in self.labelled.items()}

    @property
    def vocabulary(self) -> list[str] | None:
        """The tokens of all tasks in the order of their ids; None for images."""
        return self._shared_texts().vocabulary if self._texts else None

    @property
    def vocabulary_size(self) -> int | None:
        """The number of token ids; None for images."""
        return self._shared_texts().vocabulary_size if self._texts else None

    @property
    def longest_document(self) -> int:
        """Tokens of the longest document in a batch, of all tasks with texts that have been read; 0 for images."""
        return max((getattr(task, "longest_document", 0) for task in self.tasks.values()), default=0)

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Channels, height and width of the largest images; None for texts."""
        if self._texts:
            return None
        shapes: dict[str, tuple[int, int, int]] = self._ask(lambda task: task.image_shape, self._with_examples)
        return max(shapes.values())

    @property
    def class_names(self) -> list[str] | None:
        """The names of the classes of the task to predict; None where none is chosen."""
        return None if self.predict_task is None else self.tasks[self.predict_task].class_names

    @property
    def task_class_names(self) -> dict[str, list[str]]:
        """The names of the classes of each task with labels, in the order of its head's rows."""
        return {name: task.class_names for name, task in self.labelled.items()}

    @property
    def problem_type(self) -> ProblemType | None:
        """What each example of the task to predict has; None where none is chosen."""
        return None if self.predict_task is None else self.tasks[self.predict_task].problem_type

    def training_sample(self, count: int) -> Tensor:
        """Takes training examples of all tasks with examples of their own, equally many of each; see theirs."""
        own = self._with_examples
        samples = self._ask(lambda task: task.training_sample(math.ceil(count / len(own))), own)
        if not self._texts and len(sizes := {sample.shape[1:] for sample in samples.values()}) > 1:
            raise UserError(
                f"the images of {', '.join(samples)} are of {len(sizes)} sizes: expected the same data.image_size for a"
                " network that computes something from examples of all tasks"
            )
        return torch.cat([*samples.values()])

    @property
    def facts(self) -> dict[str, Any]:
        """What a record of a run says of its data: the facts of each task, and the steps of an epoch by task."""
        facts: dict[str, Any] = {name: task.facts for name, task in self.tasks.items()}
        own = [facts[name] for name in self._with_examples]
        totals = {name: sum(of[name] for of in own) for name in ("train_examples", "validation_examples")}
        return {**totals, "mixing": self.mixing, "steps_of_an_epoch": self._steps, "tasks": facts}

    def _shared_texts(self) -> TokenizedTexts:
        """The texts of the first task, once all tasks read theirs by one vocabulary."""
        share_vocabulary(self._texts)
        return self._texts[0]
