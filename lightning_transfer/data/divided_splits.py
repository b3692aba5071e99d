"""Divides the training split into rows to train on and to validate, and says what a run has of its data."""

from typing import Any, Generic, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_transfer.data.class_counts import announce_classes, count_classes
from lightning_transfer.data.labelled_splits import LabelledSplits
from lightning_transfer.data.labels import check_classes
from lightning_transfer.data.private_examples import TELLING_FACTS, divide_by_content, refuse_what_tells
from lightning_transfer.data.splits import Inputs, Split, split_train_validation
from lightning_transfer.errors import UserError

Stage = Literal["train", "validation", "test"]


class DividedSplits(LabelledSplits[Inputs], Generic[Inputs]):
    """The rows of labelled data that each stage takes; :class:`ClassificationDataModule` explains the arguments."""

    def __init__(
        self,
        *,
        validation_fraction: float,
        train_fraction: float,
        examples_per_class: int | None,
        split_seed: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.validation_fraction = validation_fraction
        self.train_fraction = train_fraction
        self.examples_per_class = examples_per_class
        self.split_seed = split_seed
        self.test_follows = False  # whether a fit ends by a test
        self.predict_path: str | None = None
        self._classes_are_to_check = False  # those of a checkpoint, against the data's
        self._train_rows = self._validation_rows = np.empty(0, np.int64)
        self._validates_on: str | None = None  # a split of its own, once ``setup`` has read it

    def prepare_data(self) -> None:
        """Fills the cache, once on each node; predicting needs only a checkpoint and what is predicted.

        With the training split, and where a test follows with the test split: what is wrong with it is then known
        before the training.
        """
        if self._is_predicting:
            if self.predict_path is None:
                self._split(self.test_split)
        else:
            self.count_contradictions()  # the split is kept: setup would read it again
            is_testing = self.trainer is not None and self.trainer.testing
            if not is_testing and self.own_validation is not None:
                self.count_shared("validation", self.own_validation)
            if self.test_follows or is_testing:
                self.count_shared("test", self.test_split)

    def setup(self, stage: str) -> None:
        """Reads the training split and divides it, for stages that need it."""
        super().setup(stage)
        if self._classes_are_to_check and stage in ("validate", "test"):
            check_classes(self.read_class_names(), self.class_names)
        if stage in ("fit", "validate"):
            split, self._validates_on = self._split(self.train_split), self.own_validation
            if self.test_hold_out.fraction and not self._is_opened:
                raise UserError(
                    f"data.test_fraction is {self.test_hold_out.fraction}: expected 0 with {type(self).__name__}, which"
                    " makes its splits itself"
                )
            self._divide(split)
            if self._validates_on is not None:
                self._validation_rows = np.arange(len(self._split(self._validates_on)))
        if stage == "fit":
            self._announce_classes()

    def _divide(self, split: Split[Inputs]) -> None:
        """Divides the rows of the training split into those to train on and those held out."""
        holds_out = self._validates_on is None and self.validation_fraction
        fractions = {
            "validation_fraction": self.validation_fraction if holds_out else 0.0,
            "train_fraction": self.train_fraction,
        }
        if self.private:
            if holds_out and self.group_column is not None:
                refuse_what_tells(group_column=self.group_column)
            content = self.content_of(split)
            self._train_rows, self._validation_rows = divide_by_content(content, **fractions, seed=self.split_seed)
            return
        self._train_rows, self._validation_rows = split_train_validation(
            # Rows without one class each are divided as if they were of one class.
            split.labels.numpy() if split.labels.ndim == 1 else np.zeros(len(split), np.int64),
            **fractions,
            examples_per_class=self.examples_per_class,
            seed=self.split_seed,
            groups=self._groups() if holds_out else None,
            class_names=self.class_names,
        )

    def _announce_classes(self) -> None:
        if self.problem_type != "regression" and not self.private:
            announce_classes(self.class_counts, self.class_names, self.train_split)

    @property
    def training_part(self) -> tuple[Split[Inputs], np.ndarray]:
        """The split that is trained on and its rows that are, int64 [rows] ascending, after ``setup``."""
        return self._split(self.train_split), np.sort(self._train_rows)

    @property
    def validation_part(self) -> tuple[Split[Inputs], np.ndarray]:
        """The split that is validated on and its rows that are, int64 [rows] ascending, after ``setup``."""
        return self._split(self._validates_on or self.train_split), np.sort(self._validation_rows)

    @property
    def class_counts(self) -> np.ndarray:
        """The examples of each class that are trained on, int64 [classes], after ``setup``."""
        return count_classes(self._split(self.train_split).labels[torch.from_numpy(self._train_rows)], self.num_classes)

    @property
    def facts(self) -> dict[str, Any]:
        """What a record of a run says of its data: fingerprints of the splits read and numbers of examples."""
        train, validation = len(self._train_rows), len(self._validation_rows)
        fingerprints = {name: split.fingerprint for name, split in self._splits.items()}
        facts = {"fingerprints": fingerprints, "train_examples": train, "validation_examples": validation}
        if train and self.problem_type != "regression":
            facts["training_examples_by_class"] = dict(zip(self.class_names, self.class_counts.tolist(), strict=True))
        if self.test_split in self._splits:
            facts["test_examples"] = len(self._splits[self.test_split])
        left_out = {name: split.left_out for name, split in self._splits.items() if split.left_out}
        if left_out:
            facts["left_out"] = {name: [row._asdict() for row in rows] for name, rows in left_out.items()}
        if self._validates_on is not None:
            facts["validation_split"] = self._validates_on
        if self.test_hold_out.fraction:
            facts["test_fraction"] = self.test_hold_out.fraction
        facts |= self._shared_examples
        return {name: fact for name, fact in facts.items() if not (self.private and name in TELLING_FACTS)}

    @property
    def first_validation_row(self) -> int:
        """What is added to the number of a validation row so that no training row has the same."""
        return len(self._split(self.train_split)) if self._validates_on is not None else 0

    def take_examples_of(self, other: "DividedSplits[Inputs]", stage: str) -> None:
        """Divides the examples as other data with the same ones has, in place of ``setup``: only labels are its own.

        Which splits serve what is that of the other data too.

        Args:
            other: The other data, after its ``setup``.
            stage: The stage that it was set up for.

        Raises:
            UserError: If a split of the other data holds other examples here.
        """
        self.train_split, self.test_split = other.train_split, other.test_split
        for name in {*other._splits, *([other.test_split] if stage == "test" else [])}:
            own, split = self._split(name), other._split(name)
            if own.fingerprint != split.fingerprint or len(own) != len(split):
                raise UserError(
                    f"split {name!r} of {self.path} and of {other.path} do not hold the same examples: expected the"
                    " same data and the same test_fraction, with another label_column"
                )
        self._train_rows, self._validation_rows = other._train_rows, other._validation_rows
        self._validates_on = other._validates_on
        if stage == "fit":
            self._announce_classes()

    def labels_in(self, stage: Stage) -> Tensor:
        """Gives the labels of all rows of the split that a stage takes its examples from, after ``setup``."""
        splits = {"train": self.train_split, "validation": self._validates_on or self.train_split}
        return self._split(splits.get(stage, self.test_split)).labels

    def state_dict(self) -> dict[str, Any]:
        """The names of the classes, as plain types."""
        return {**super().state_dict(), "class_names": self.class_names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Makes predictions know their classes without the data set.

        Raises:
            UserError: For data that has been read and has other classes.
        """
        super().load_state_dict(state_dict)
        names = state_dict["class_names"]
        if self._class_names not in (None, names):
            check_classes(self._class_names, names, to_train=getattr(self.trainer, "training", False))
            self._splits.clear()  # their labels are numbered in another order
        self._classes_are_to_check = self._class_names is None
        self._class_names = names
