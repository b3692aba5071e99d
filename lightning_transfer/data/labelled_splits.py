"""Opens the splits of labelled data, names its classes, and compares the splits with each other."""

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Generic

import datasets
import numpy as np
import torch
from torch import Tensor

from lightning_transfer.data import hub
from lightning_transfer.data.batches import ProblemType
from lightning_transfer.data.class_counts import require_training_examples
from lightning_transfer.data.hold_outs import TestHoldOut, count_shared_groups, find_own_validation, groups_of
from lightning_transfer.data.label_columns import LabelColumns
from lightning_transfer.data.left_out import warn_of_left_out
from lightning_transfer.data.overlap import Role, Rows, check_overlap, count_contradictions
from lightning_transfer.data.private_examples import refuse_shared_rows
from lightning_transfer.data.reading.options import ReaderOptions
from lightning_transfer.data.seeding import SeededDataModule
from lightning_transfer.data.splits import Inputs, Split
from lightning_transfer.errors import UserError


class LabelledSplits(SeededDataModule, Generic[Inputs]):
    """The splits of labelled data, each read once; :class:`ClassificationDataModule` explains the arguments."""

    text_columns: Sequence[str] = ()  # which are texts even where they hold numbers

    def __init__(
        self,
        path: str,
        problem_type: ProblemType,
        label_column: str | list[str] | None,
        train_split: str,
        validation_split: str | None,
        test_split: str,
        test_fraction: float,
        test_seed: int,
        group_column: str | None,
        reader: ReaderOptions | None,
        private: bool = False,
    ) -> None:
        super().__init__()
        self.private = private
        self.path = path
        self.reader = reader
        self.problem_type = problem_type
        self.label_columns = LabelColumns(problem_type, label_column)
        self.train_split = train_split
        self.validation_split = validation_split
        self.test_split = test_split
        self.group_column = group_column
        column = next(iter(self.label_columns.names), None) if problem_type == "classification" else None
        self.test_hold_out = TestHoldOut(test_fraction, test_seed, train_split, test_split, column, group_column)
        self._class_names: list[str] | None = None
        self._is_opened = False  # whether ``path`` has been, and not a class of the user's made the splits
        self._splits: dict[str, Split[Inputs]] = {}
        self._unlabelled: set[str] = set()  # splits that were read to predict
        self._shared_examples: dict[str, int] = {}  # of other splits with the training split, by name of the fact

    @abstractmethod
    def read_split(self, split: str) -> Split[Inputs]:
        """Reads a split whole, from the cache where it can."""

    @abstractmethod
    def tensors_of(self, split: Split[Inputs]) -> tuple[Tensor, ...]:
        """Gives the tensors that hold a split."""

    def read_class_names(self) -> list[str]:
        """Reads the names of the training split's classes."""
        dataset = self.open_split(self.train_split)
        with warnings.catch_warnings():
            if self.private:  # they tell of single examples
                warnings.simplefilter("ignore")
            return self.label_columns.class_names(dataset, self.train_split)

    def open_split(self, split: str, **columns: Any) -> datasets.Dataset:
        """Opens a split and checks that it has the columns that arguments name; a prediction needs no labels."""
        labels = {} if self._is_predicting else {"label_column": self.label_columns.names}
        columns |= {**labels, "reader": self.reader, "texts": self.text_columns}
        self._is_opened = True
        return self.test_hold_out.open(split, lambda name: hub.load_split(self.path, name, **columns), self.split_names)

    def split_names(self) -> list[str]:
        """Gives the names of the data's splits; none where a class of its own makes them, and not ``path``."""
        return hub.split_names(self.path) if self._is_opened else []

    def read_labels(self, dataset: datasets.Dataset, split: str) -> Tensor:
        """Reads the labels of a split, a row for each example, and checks them; all are -1 in a prediction."""
        if self._is_predicting:
            return torch.full((len(dataset),), -1)
        return self.label_columns.read(dataset, split, self.class_names)

    @property
    def class_names(self) -> list[str]:
        """The name of each class, in the order of the labels; with numbers, the name of the column of each."""
        if self._class_names is None:
            self._class_names = self.read_class_names()
        return self._class_names

    @property
    def num_classes(self) -> int:
        """The number of classes, or of the numbers to predict."""
        return len(self.class_names)

    @cached_property
    def own_validation(self) -> str | None:
        """The split that the data has for validation; None where part of the training split is held out.

        Raises:
            UserError: For a split that is the one to test on.
        """
        return find_own_validation(
            self.path, self.validation_split, [self.train_split], self.test_split, self.split_names()
        )

    def content_of(self, split: Split[Inputs]) -> Rows:
        """Gives the content of each row, by which rows of two splits are compared."""
        inputs = self.tensors_of(split)[0].numpy()
        return Rows(inputs.reshape(-1), np.arange(len(inputs) + 1) * (inputs.size // max(1, len(inputs))))

    def count_shared(self, role: Role, split: str) -> None:
        """Counts the examples of a split that the training split has as well, once, and warns of them.

        Raises:
            UserError: For a part of the training split, where that is private.
        """
        fact = f"{role}_examples_in_training_split"
        if self.private:
            return refuse_shared_rows(self.train_split, split, role, self.split_names())
        if fact not in self._shared_examples:
            train, other = self._split(self.train_split), self._split(split)
            if self.problem_type != "regression" and (self.trainer is None or self.trainer.training):
                require_training_examples(train.labels, other.labels, self.class_names, (self.train_split, split))
            is_held_out = role == "test" and bool(self.test_hold_out.fraction)
            self._shared_examples[fact] = check_overlap(
                self.train_split, split, self.content_of(train), self.content_of(other), role, is_held_out
            )
            if self.group_column is not None and self._is_opened and not is_held_out:
                train_rows, rows = (self.open_split(name) for name in (self.train_split, split))
                if self.group_column in train_rows.column_names and self.group_column in rows.column_names:
                    shared = count_shared_groups(train_rows, rows, self.group_column, (self.train_split, split))
                    self._shared_examples[f"{role}_groups_in_training_split"] = shared
        return None

    def count_contradictions(self) -> None:
        """Counts the examples of the training split that are there with another label too, and warns of them."""
        split = self._split(self.train_split)
        if (
            not self.private
            and self.problem_type == "classification"
            and (count := count_contradictions(self.train_split, self.content_of(split), split.labels.numpy()))
        ):
            self._shared_examples["training_examples_with_different_labels"] = count

    def _split(self, name: str) -> Split[Inputs]:
        if name not in self._splits or (name in self._unlabelled and not self._is_predicting):
            self._splits[name] = split = self.read_split(name)
            (self._unlabelled.add if self._is_predicting else self._unlabelled.discard)(name)
            warn_of_left_out(name, split.left_out, len(split))
        return self._splits[name]

    @property
    def _is_predicting(self) -> bool:
        return getattr(self.trainer, "predicting", False)

    def _groups(self) -> np.ndarray | None:
        if self.group_column is None:
            return None
        if not self._is_opened and type(self).open_split is LabelledSplits.open_split:
            name = type(self).__name__
            raise UserError(
                f"data.group_column is {self.group_column}: expected null with {name}, which has no columns"
            )
        dataset = self.open_split(self.train_split, group_column=self.group_column)
        groups: np.ndarray = groups_of(dataset, self.group_column, self.train_split)[self._split(self.train_split).rows]
        return groups
