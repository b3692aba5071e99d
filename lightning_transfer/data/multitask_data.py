"""Several tasks that one network learns together, each with a data module of its own."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info

from lightning_transfer.data.batches import TaskBatch
from lightning_transfer.data.divided_splits import Stage
from lightning_transfer.data.joined_tasks import JoinedTasks
from lightning_transfer.data.loader import BatchLoader, training_loader
from lightning_transfer.data.seeding import SeededDataModule
from lightning_transfer.data.task_checks import check_tasks
from lightning_transfer.data.task_mixing import TaskMixing, mixed_steps, shares_of_tasks, steps_of_tasks
from lightning_transfer.errors import UserError, with_options_of_task


class MultiTaskDataModule(JoinedTasks):
    """Joins the data of several tasks: each training step has a batch of one of them, or of all.

    Each task keeps its own splits, batches and augmentation. A task without labels may be to predict the tokens of
    texts: its batches are segments of streams. An epoch has equally many steps of a task as any other epoch, in random
    order. A small task comes several times in an epoch, where its images are augmented in the same way. Texts of all
    tasks are read by one vocabulary, learned from the training texts of all.

    Args:
        tasks: The data of each task, by the task's name: data modules of images, or of texts; for the prediction of
            tokens ``LanguageModelDataModule``.
        mixing: How the steps are shared: in proportion to the training examples (proportional), equally (uniform), or
            in between by temperature. With together each step has a batch of every task.
        temperature: Shares are in proportion to the examples to the power of 1 / temperature: 1 is proportional, and
            the higher, the more equal (Arivazhagan et al., 2019). It counts for the rule temperature alone.
        steps_per_epoch: Number of steps of an epoch. If not given, as many as the tasks have batches, and with together
            as many as the largest task has.
        same_examples: Tasks that have other labels for the examples of another task, by name: {coarse: fine}. The
            network sees each example once for both. Splits, batches and augmentation are those of the other task.
        vocabulary_path: The ``tokenizer.json`` of another run, whose vocabulary all tasks use instead of learning one.
            A network that starts from that run's weights needs it.
        predict_task: The task that ``predict`` predicts.
        predict_path: What ``predict`` reads in place of that task's test split.

    Raises:
        UserError: For values out of range, and tasks that do not go together.
    """

    def __init__(
        self,
        tasks: dict[str, SeededDataModule],
        mixing: TaskMixing = "proportional",
        temperature: float = 2.0,
        steps_per_epoch: int | None = None,
        same_examples: dict[str, str] | None = None,
        vocabulary_path: str | None = None,
        predict_task: str | None = None,
        predict_path: str | None = None,
    ) -> None:
        super().__init__()
        self.tasks: dict[str, Any] = {**tasks}  # by classes that check_tasks allows
        self.mixing = mixing
        self.temperature = temperature
        self.steps_per_epoch = steps_per_epoch
        self.same_examples = same_examples or {}
        self.predict_task = predict_task
        self.test_follows = False  # whether a fit ends by a test
        self._train_loader: BatchLoader | None = None
        self._resume_at: dict[str, int] = {}
        self._steps: dict[str, int] = {}  # of an epoch, by task
        check_tasks(self)
        if vocabulary_path is not None and not self._texts:
            raise UserError(f"data.vocabulary_path is {vocabulary_path}: expected null, as no task is of texts")
        for task in self._texts if vocabulary_path is not None else []:
            task.vocabulary_path = vocabulary_path
        if predict_path is not None:
            if predict_task is None:
                raise UserError(f"data.predict_path is {predict_path}: expected null without data.predict_task")
            self.tasks[self._examples_of(predict_task)].predict_path = predict_path

    # ---- the stages -------------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Fills the caches of the tasks, once on each node."""
        self._ask(lambda task: task.prepare_data(), self._attached())

    def setup(self, stage: str) -> None:
        """Reads and divides the training splits of the tasks, for stages that need them."""
        super().setup(stage)
        for name, task in self._attached().items():
            if stage == "fit":
                rank_zero_info(f"task {name}:")
            with with_options_of_task(name):
                task.setup(stage)
        for name, other in self.same_examples.items() if stage != "predict" else ():
            if stage == "fit":
                rank_zero_info(f"task {name}, of the examples of {other}:")
            with with_options_of_task(name):
                self.tasks[name].take_examples_of(self.tasks[other], stage)

    def _attached(self) -> dict[str, Any]:
        """Tells the tasks who trains, and gives those whose examples this stage reads."""
        for task in self.tasks.values():
            task.trainer, task.test_follows = self.trainer, self.test_follows
        if self._texts:
            self._shared_texts()
        if getattr(self.trainer, "predicting", False):
            source = None if self.predict_task is None else self._examples_of(self.predict_task)
            return {} if source is None else {source: self.tasks[source]}
        return self._trained

    def train_dataloader(self) -> BatchLoader:
        """The steps of the training, each a list of one batch, or with mixing together of a batch of every task."""
        data = self._trained
        given = self._ask(lambda task: task.train_dataloader(), data)
        loaders = [self._of_task(name, loader, "train") for name, loader in given.items()]
        is_together, lengths = self.mixing == "together", [*map(len, loaders)]
        length = self.steps_per_epoch or (max(lengths) if is_together else sum(lengths))
        counted = ["train_documents" if name in self.language_tasks else "train_examples" for name in data]
        examples = [task.facts[name] for task, name in zip(data.values(), counted, strict=True)]
        shares = shares_of_tasks(examples, self.mixing, self.temperature)
        counts = np.full(len(data), length) if is_together else steps_of_tasks(shares, length)
        self._steps = dict(zip(data, counts.tolist(), strict=True))
        steps: Any = mixed_steps([loader.batches for loader in loaders], counts, self.run_seed, is_together)

        def fetch(step: Any) -> list[TaskBatch]:
            return [loaders[place].fetch(rows) for place, rows in step]

        self._train_loader = training_loader(fetch, steps, self.trainer, self._resume_at)
        self._resume_at = {}
        return self._train_loader

    def val_dataloader(self) -> list[BatchLoader]:
        """Batches of the validation split or the hold-out of each task, but for tasks that hold nothing out."""
        loaders = self._ask(lambda task: task.val_dataloader(), self._trained)
        return [
            self._of_task(name, loader, "validation")
            for name, loader in loaders.items()
            if isinstance(loader, BatchLoader)
        ]

    def test_dataloader(self) -> list[BatchLoader]:
        """Batches of the test split of each task with labels."""
        loaders = self._ask(lambda task: task.test_dataloader(), self._with_examples)
        return [self._of_task(name, loader, "test") for name, loader in loaders.items()]

    def predict_dataloader(self) -> BatchLoader:
        """Batches of the task to predict, whose labels are not read.

        Raises:
            UserError: If none is chosen.
        """
        if self.predict_task is None:
            raise UserError(
                f"data.predict_task is null: expected one of {', '.join(self.tasks)}, to predict its labels"
            )
        source = self._examples_of(self.predict_task)  # which prepares them as the head has seen them
        [loader] = self._ask(lambda task: task.predict_dataloader(), [source]).values()
        return self._of_task(self.predict_task, loader)

    def _of_task(self, name: str, loader: BatchLoader, stage: Stage | None = None) -> BatchLoader:
        """Gives the batches of a loader the name of their task, and labels that other tasks have for the examples."""
        shared = [task for task, other in self.same_examples.items() if other == name]
        others = {task: self.tasks[task].labels_in(stage) for task in shared} if stage is not None else {}

        def fetch(rows: np.ndarray) -> TaskBatch:
            other_labels = {task: labels[torch.from_numpy(rows)] for task, labels in others.items()}
            return TaskBatch(name, loader.fetch(rows), other_labels)

        return BatchLoader(fetch, loader.batches, loader.row_names)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Has each task's data augment and normalise its own batches, on the device."""
        if isinstance(batch, list):
            return [self.on_after_batch_transfer(one, dataloader_idx) for one in batch]
        data = self.tasks[self._examples_of(batch.task)]
        return batch._replace(batch=data.on_after_batch_transfer(batch.batch, dataloader_idx))

    # ---- the checkpoint ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The place in the steps and what each task saves, as plain types, with the tokenizer of texts."""
        place = self._train_loader.state_dict() if self._train_loader else {}
        state = {**super().state_dict(), "place": place}
        state["tasks"] = {name: task.state_dict() for name, task in self.tasks.items()}
        return state | ({"tokenizer": self._shared_texts().tokenizer.to_str()} if self._texts else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Makes training go on from a saved place, and predictions know the classes of every task.

        Raises:
            UserError: For a checkpoint of other tasks.
        """
        super().load_state_dict(state_dict)
        if set(state_dict["tasks"]) != set(self.tasks):
            raise UserError(
                f"the checkpoint's tasks are {', '.join(state_dict['tasks'])}, and those of data.tasks"
                f" {', '.join(self.tasks)}: expected the same"
            )
        self._resume_at = state_dict["place"]
        for name, task in self.tasks.items():
            task.load_state_dict(state_dict["tasks"][name])
