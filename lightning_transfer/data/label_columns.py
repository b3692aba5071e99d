"""The columns of the labels, and how they are read for each problem type."""

from collections.abc import Sequence
from typing import Protocol, get_args

import datasets
import torch
from torch import Tensor

from lightning_transfer.data import label_numbers, label_sets, labels
from lightning_transfer.data.batches import ProblemType
from lightning_transfer.errors import UserError


class LabelReader(Protocol):
    """What reads labels: a module with two functions, or the like."""

    def class_names(self, dataset: datasets.Dataset, columns: Sequence[str], split: str) -> list[str]:
        """Reads the names of the classes or numbers."""

    def read(self, dataset: datasets.Dataset, columns: Sequence[str], split: str, names: list[str]) -> Tensor:
        """Reads the labels of a split, a row for each example."""


class _NoLabels:
    """Reads data without labels, whose examples are all of one class."""

    def class_names(self, dataset: datasets.Dataset, columns: Sequence[str], split: str) -> list[str]:
        return ["unlabelled"]

    def read(self, dataset: datasets.Dataset, columns: Sequence[str], split: str, names: list[str]) -> Tensor:
        return torch.zeros(len(dataset), dtype=torch.int64)


_READERS: dict[ProblemType, LabelReader] = {
    "classification": labels,
    "multilabel": label_sets,
    "regression": label_numbers,
}


class LabelColumns:
    """Reads the labels of data.

    Args:
        problem_type: What each example has.
        label_column: The column, or several; None for data without labels, whose examples are all of one class.

    Raises:
        UserError: For an unknown problem type, no column at all, and several columns for one class.
    """

    def __init__(self, problem_type: ProblemType, label_column: str | Sequence[str] | None) -> None:
        if problem_type not in _READERS:
            raise UserError(f"data.problem_type is {problem_type}: expected {', '.join(get_args(ProblemType))}")
        self.names = [label_column] if isinstance(label_column, str) else list(label_column or ())
        self._has_none = label_column is None and problem_type == "classification"
        if (not self.names and not self._has_none) or (problem_type == "classification" and len(self.names) > 1):
            raise UserError(
                f"data.label_column is {self.names}: expected one column with data.problem_type {problem_type}"
            )
        if len(set(self.names)) < len(self.names):
            raise UserError(f"data.label_column is {self.names}: expected several different columns")
        self._problem_type = problem_type  # not its reader: a module cannot be sent to another process

    def class_names(self, dataset: datasets.Dataset, split: str) -> list[str]:
        """Reads the names of the classes, or of the numbers, from the split that is trained on."""
        return self._reader.class_names(dataset, self.names, split)

    def read(self, dataset: datasets.Dataset, split: str, class_names: list[str]) -> Tensor:
        """Reads the labels of a split and checks them.

        Returns:
            int64 [rows]; with several classes or numbers float32 [rows, classes or numbers].
        """
        return self._reader.read(dataset, self.names, split, class_names)

    @property
    def _reader(self) -> LabelReader:
        return _NoLabels() if self._has_none else _READERS[self._problem_type]
