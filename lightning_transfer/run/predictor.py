"""Predicts examples that a program gives, with a finished run or several, and without a trainer."""

import copy
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.plugins import Precision
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from lightning_transfer.data.batches import ProblemType
from lightning_transfer.data.classification import ClassificationDataModule, require_at_least
from lightning_transfer.data.splits import Split
from lightning_transfer.errors import UserError
from lightning_transfer.run.predictions import in_words, places_of_classes, require_predictions


@dataclass(frozen=True)
class Predicted:
    """Holds the predictions of some examples, in the order in which the examples were given.

    Attributes:
        labels: The class of each example. Where an example has several classes, the list of those whose probability is
            at least a half. None where numbers are predicted.
        probabilities: The probability of each class, float32 [examples, classes]. None where numbers are predicted.
        values: The numbers, float32 [examples, numbers]. None where classes are predicted.
        class_names: What the columns are called.
    """

    labels: list[str] | list[list[str]] | None
    probabilities: Tensor | None
    values: Tensor | None
    class_names: list[str]


@dataclass(frozen=True)
class Member:
    """One run that predicts, on one device.

    Attributes:
        name: The folder of the run.
        module: The trained module.
        data: The data module, with what the checkpoint says of classes, vocabulary and preprocessing.
        precision: What runs the module in the precision of the run.
        device: Where the module is.
    """

    name: str
    module: L.LightningModule
    data: ClassificationDataModule[Any]
    precision: Precision
    device: torch.device
    _lock: threading.Lock = field(default_factory=threading.Lock)  # a network may keep something from batch to batch

    def predict(self, examples: Sequence[object], batch_size: int | None) -> Tensor:
        """Computes probabilities or numbers, float32 [examples, classes]."""
        data = self.data
        if batch_size is not None:
            data = copy.copy(data)
            data.eval_batch_size = batch_size
        split = data.split_of(examples)
        return self.predict_rows(split, np.arange(len(split)), data)

    def predict_rows(
        self, split: Split[Any], rows: np.ndarray, data: ClassificationDataModule[Any] | None = None
    ) -> Tensor:
        """Computes probabilities or numbers of rows of a split, float32 [rows, classes].

        Args:
            split: The split.
            rows: int64 [rows], ascending.
            data: What makes the batches, if not the data module of the run.
        """
        data = data or self.data
        loader = data.eval_loader(split, rows)
        outputs = []
        # The steps and their order are those of Lightning's trainer, for the same numbers to the last bit.
        with self._lock, torch.inference_mode(), self.precision.predict_step_context():
            for number, batch in enumerate(loader):
                output = self.module.predict_step(self.prepared(batch, data), number)
                require_predictions(output, len(data.class_names), data.problem_type)
                outputs.append(output.cpu())
        return loader.in_order(outputs)

    def prepared(self, batch: Any, data: ClassificationDataModule[Any] | None = None) -> Any:
        """Brings a batch to the device, in the precision of the run, as the network takes it."""
        data = data or self.data
        owner: Any = data if is_overridden("on_after_batch_transfer", data) else self.module
        moved = move_data_to_device(self.precision.convert_input(batch), self.device)
        return self.precision.convert_input(owner.on_after_batch_transfer(moved, 0))


class Predictor:
    """Predicts with one run, or with several by the mean of their probabilities or numbers.

    Several threads may predict at once. They read images and tokenise texts side by side, and take turns in the
    network, which uses all cores or the GPU anyway.

    Args:
        members: The runs. The classes of the others may be in another order than those of the first.

    Attributes:
        class_names: The names of the classes, or of the numbers.
        problem_type: Whether an example has one class (classification), several (multilabel) or numbers (regression).

    Raises:
        UserError: If the runs do not predict the same classes or numbers.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        first = members[0]
        self.members = [*members]
        self.class_names = [str(name) for name in first.data.class_names]
        self.problem_type: ProblemType = first.data.problem_type
        for other in members[1:]:
            kind = other.data.problem_type
            if kind != self.problem_type or {*other.data.class_names} != {*self.class_names}:
                raise UserError(
                    f"{other.name} and {first.name} do not predict the same: expected runs with the same classes, and"
                    " the same data.problem_type"
                )

    def predict(self, examples: Iterable[object], batch_size: int | None = None) -> Predicted:
        """Predicts examples as ``lightning-transfer predict`` does: its numbers to the last bit, in the same batches.

        Args:
            examples: For a run on images paths, contents of files as bytes, images of Pillow, and arrays: height x
                width, with or without channels, uint8 or real numbers from 0 to 1. Where the run has learned from
                numbers in another range (``data.window``), arrays are in that range. For a run on texts strings; where
                it has several text columns, a list of strings for each example.
            batch_size: Examples in a batch; the run's ``data.eval_batch_size`` if not given. A batch of texts also has
                at most ``data.eval_batch_tokens`` tokens. The last digits of a number may depend on the batch.

        Raises:
            UserError: For an example that cannot be read. It says which, and nothing is predicted.
        """
        # A mapping and a table of pandas would give the names of their columns.
        if (
            isinstance(examples, str | bytes | Mapping)
            or not isinstance(examples, Iterable)
            or hasattr(examples, "columns")
        ):
            raise UserError(
                f"examples are {type(examples).__name__}: expected a list, such as [example] for a single one, or"
                " table['text'].tolist() for the column of a table"
            )
        if batch_size is not None:
            require_at_least(1, batch_size=batch_size)
        given = [*examples]
        found = torch.empty(0, len(self.class_names))
        if given:
            found = torch.stack([self._of(member, given, batch_size) for member in self.members]).mean(0)
        if self.problem_type == "regression":
            return Predicted(None, None, found, self.class_names)
        key = "class" if self.problem_type == "classification" else "classes"
        rows = (dict(zip(self.class_names, row, strict=True)) for row in found.tolist())
        labels = [in_words(row, self.problem_type)[key] for row in rows]
        return Predicted(labels, found, None, self.class_names)

    def _of(self, member: Member, examples: Sequence[object], batch_size: int | None) -> Tensor:
        found = member.predict(examples, batch_size)
        return found[:, places_of_classes(member.data.class_names, self.class_names)]


def refuse_repeated(runs: Sequence[Path], whole: str) -> None:
    """Refuses a run that is named twice, in whatever spelling.

    Args:
        runs: Folders of the runs.
        whole: What they are to make, such as ``an ensemble``.

    Raises:
        UserError: For the first of them.
    """
    places = [run.resolve() for run in runs]
    for run, place in zip(runs, places, strict=True):
        if places.count(place) > 1:
            raise UserError(f"{run} is named twice: each run of {whole} counts once")
