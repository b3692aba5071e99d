"""Checks that tasks, and the options of their data, go together."""

from typing import Any

from torch import nn

from lightning_transfer.data.classification import ClassificationDataModule, require_at_least
from lightning_transfer.data.language_modelling import LanguageModelDataModule
from lightning_transfer.data.vocabulary import TokenizedTexts
from lightning_transfer.errors import UserError

# What decides which examples are trained on, and how they are changed.
_OF_EXAMPLES = {
    "balanced_sampling": False,
    "train_fraction": 1.0,
    "examples_per_class": None,
    "augmentation": None,
    "mixing": None,
}
_TAKEN = {"shown", "_in_means"}  # by what holds the metrics of the tasks


def check_tasks(data: Any) -> None:
    """Checks the tasks of a ``MultiTaskDataModule``, and its options.

    Raises:
        UserError: For values out of range, and tasks that do not go together.
    """
    require_at_least(1, temperature=data.temperature)
    if data.steps_per_epoch is not None:
        require_at_least(1, steps_per_epoch=data.steps_per_epoch)
    _check_kinds(data.tasks)
    names, labelled = ", ".join(data.tasks), ", ".join(data.labelled)
    for task, other in data.same_examples.items():
        own = {name for name in data.labelled if name not in data.same_examples}
        if task not in data.labelled or other not in own:
            raise UserError(
                f"data.same_examples has {task}: {other}: expected a task and another one that has examples of its own,"
                f" of {labelled}"
            )
        for name, default in _OF_EXAMPLES.items():
            given, of_other = (getattr(data.tasks[one], name, default) for one in (task, other))
            if given not in (default, of_other):
                raise UserError(
                    f"data.tasks.{task}.{name} is {given}: expected it in task {other}, whose examples {task} has"
                )
        if getattr(data.tasks[other], "mixing", None) is not None:
            raise UserError(f"mixing of task {other} is on: expected null, as labels of {task} would not be mixed")
    if data.predict_task not in (None, *data.labelled):
        raise UserError(f"data.predict_task is {data.predict_task}: expected one of {labelled}")
    if len({isinstance(task, TokenizedTexts) for task in data.tasks.values()}) > 1:
        raise UserError(f"data.tasks are {names}, of texts and of images: expected one kind for one network")


def _check_kinds(tasks: dict[str, Any]) -> None:
    for name, task in tasks.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise UserError(f"data.tasks has {name!r}: expected a name of letters, digits and _, no digit at its start")
        if hasattr(nn.ModuleDict, name) or name in _TAKEN:
            raise UserError(f"data.tasks has {name!r}: expected another name, as modules have a part of this one")
        if not isinstance(task, ClassificationDataModule | LanguageModelDataModule):
            kind = type(task).__name__
            raise UserError(
                f"task {name} has the data {kind}: expected images or texts with labels, or LanguageModelDataModule"
            )
        if isinstance(task, ClassificationDataModule) and not task.label_columns.names:
            raise UserError(f"data.tasks.{name}.label_column is null: expected the column of the task's labels")
    names = ", ".join(tasks)
    if len(tasks) < 2:
        raise UserError(f"data.tasks is {names or 'empty'}: expected two tasks or more")
    if all(isinstance(task, LanguageModelDataModule) for task in tasks.values()):
        raise UserError(f"data.tasks are {names}, none of which has labels: expected one with labels at least")
