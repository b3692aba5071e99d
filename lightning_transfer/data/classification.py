"""What every classification data set shares: its arguments, its batches, and the place in them."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, get_args

import numpy as np
import torch
from torch import Tensor

from lightning_transfer.data.balanced_sampling import EpochOrder, balanced_order
from lightning_transfer.data.batches import ProblemType
from lightning_transfer.data.divided_splits import DividedSplits
from lightning_transfer.data.left_out import OnError
from lightning_transfer.data.loader import (
    BatchLoader,
    EpochBatches,
    ordered_batches,
    shuffled_batches,
    training_loader,
)
from lightning_transfer.data.private_examples import (
    poisson_batches,
    refuse_shared_rows,
    refuse_what_tells,
    sampling_rate,
    taking_none,
)
from lightning_transfer.data.reading.options import ReaderOptions
from lightning_transfer.data.splits import Inputs, Split
from lightning_transfer.errors import UserError
from lightning_transfer.lightning_internals import divides_weights


class ClassificationDataModule(DividedSplits[Inputs], Generic[Inputs]):
    """Classification data from the Hub, a mirror or a folder; also data with several classes or numbers to predict.

    Validation is a split of its own where the data has one. Else it is a stratified hold-out of the training split, and
    a random one where an example has not one class. The test split serves ``test`` and ``predict`` alone.

    Args:
        path: A Hub id or a folder. Hub ids are looked up in the folders that LIGHTNING_TRANSFER_MIRROR names, if any.
        label_column: The column of the labels: class labels, whole numbers, truth values or words. The values that
            occur in the training split are the classes, in natural order: 2 before 10. With problem_type multilabel a
            column of lists of these, or several columns of 0 and 1; with regression one or several columns of numbers.
            Null for images without labels, from which SelfSupervisedModule learns.
        train_split: The split to train on, and to validate on where the data has no split for that.
        validation_split: The split to validate on; nothing is then held out of the training split. If null, the one
            called validation, valid, val, dev or validate, if any. With the name of the training split, part of that is
            held out.
        test_split: The split to test on. Examples of it that are in the training split too are counted, and it is
            refused where they are half of it or more.
        test_fraction: Share of each class of the training split that is held out under the name of test_split, for
            data without one.
        test_seed: Seed of that test. It is not split_seed, which studies vary to choose by validation.
        group_column: Column of a person, film or the like. Examples of the same one are held out together, for
            validation and test alike, and the shares of the classes are kept as well as that allows.
        batch_size: Training examples in a batch, over all devices together.
        eval_batch_size: Examples in a batch on each device in validation, test and prediction.
        validation_fraction: Share of each class of the training split that is held out for validation, if no split is
            there for it. With 0 all of it is trained on, nothing is validated, and the last weights are the result:
            once all choices are made.
        train_fraction: Share of the rest of each class to train on. A smaller one is a subset of a larger one.
        examples_per_class: Training examples of each class, in place of train_fraction; nested likewise.
        split_seed: Seed of the hold-out and of the cut of the training set.
        resident_gib: Up to this many GiB, all of a split is kept in the memory of an accelerator, if there is one, and
            batches are taken there; 0 sends every batch over. ``model.cache_features`` may take as many GiB again, on
            any device.
        problem_type: Whether each example has one class (classification), any number of classes (multilabel), or
            numbers (regression).
        balanced_sampling: Whether an epoch has equally many examples of each class: those of rare classes come several
            times, and of frequent ones each epoch has others. Epochs are as long as without it, and validation and test
            as they are. An example that comes several times in an epoch is augmented in the same way there.
        private: Whether the training examples are private, for ``PrivateClassifier``. Each is drawn into each batch by
            a chance of its own, and ``batch_size`` is the expected number. Nothing is measured on them. Only how many
            there are is said and recorded.
        reader: How CSV files and their like are written, where it cannot be seen.
        on_error: Whether examples that are missing or cannot be read are refused (raise), or left out, counted and
            listed (skip).

    Raises:
        UserError: For values out of range, and data that is missing or not as described.
    """

    def __init__(
        self,
        path: str,
        label_column: str | list[str] | None = "label",
        train_split: str = "train",
        validation_split: str | None = None,
        test_split: str = "test",
        test_fraction: float = 0.0,
        test_seed: int = 0,
        group_column: str | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 500,
        validation_fraction: float = 0.1,
        train_fraction: float = 1.0,
        examples_per_class: int | None = None,
        split_seed: int = 0,
        resident_gib: float = 4.0,
        problem_type: ProblemType = "classification",
        balanced_sampling: bool = False,
        private: bool = False,
        reader: ReaderOptions | None = None,
        on_error: OnError = "raise",
    ) -> None:
        require_at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        require_at_least(0, split_seed=split_seed, test_seed=test_seed, resident_gib=resident_gib)
        if on_error not in get_args(OnError):
            raise UserError(f"data.on_error is {on_error}: expected {' or '.join(get_args(OnError))}")
        if examples_per_class is not None and problem_type != "classification":
            raise UserError(
                f"data.examples_per_class is {examples_per_class}: expected null with data.problem_type"
                f" {problem_type}, set data.train_fraction"
            )
        if balanced_sampling and problem_type != "classification":
            raise UserError(
                f"data.balanced_sampling is true: expected false with data.problem_type {problem_type}, whose examples"
                " have not one class each"
            )
        super().__init__(
            path=path,
            problem_type=problem_type,
            label_column=label_column,
            train_split=train_split,
            validation_split=validation_split,
            test_split=test_split,
            test_fraction=test_fraction,
            test_seed=test_seed,
            group_column=group_column,
            reader=reader,
            private=private,
            validation_fraction=validation_fraction,
            train_fraction=train_fraction,
            examples_per_class=examples_per_class,
            split_seed=split_seed,
        )
        if private:
            refuse_what_tells(balanced_sampling=balanced_sampling, examples_per_class=examples_per_class)
            if on_error != "raise":
                raise UserError(
                    f"data.on_error is {on_error}: expected raise with data.private true, as it lists examples"
                )
            if test_fraction:
                raise UserError(
                    f"data.test_fraction is {test_fraction}: expected 0 with data.private true, as it divides examples"
                    " by their numbers; give a test split of its own, or set test_after_fit to false"
                )
            if "[" in train_split:
                raise UserError(
                    f"data.train_split is {train_split}: expected a whole split with data.private true, as one example"
                    " more would move another one out of the slice; data.train_fraction takes a part"
                )
            refuse_shared_rows(train_split, test_split, "test")
        self.balanced_sampling = balanced_sampling
        self.on_error: OnError = on_error
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.resident_gib = resident_gib
        self._on_device: dict[Split[Inputs], tuple[Tensor, ...]] = {}
        self._train_loader: BatchLoader | None = None
        self._resume_at: dict[str, int] = {}

    @abstractmethod
    def batch_maker(self, split: Split[Inputs], is_training: bool = False) -> Callable[[np.ndarray], Any]:
        """Gives what makes a batch of rows, int64 [batch]: a named tuple with ``labels`` and ``inputs``."""

    def resident(self, split: Split[Inputs]) -> tuple[Tensor, ...]:
        """Gives the tensors that hold a split where batches are to be taken from them."""
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        tensors = self.tensors_of(split)
        if device.type == "cpu" or sum(tensor.nbytes for tensor in tensors) > self.resident_gib * 2**30:
            return tensors
        if split not in self._on_device or self._on_device[split][0].device != device:
            self._on_device[split] = tuple(tensor.to(device) for tensor in tensors)
        return self._on_device[split]

    def train_batches(self, split: Split[Inputs], rows: np.ndarray, **share: int) -> EpochBatches:
        """Divides the training rows into the batches of an epoch; ``share`` is this rank's part of each."""
        order = self.training_order(split, rows)
        return shuffled_batches(rows, batch_size=self.batch_size, seed=self.run_seed, order=order, **share)

    def training_order(self, split: Split[Inputs], rows: np.ndarray) -> EpochOrder | None:
        """Gives what draws the rows of an epoch; None where each comes once."""
        return balanced_order(rows, split.labels.numpy()[rows]) if self.balanced_sampling else None

    def eval_batches(self, split: Split[Inputs], rows: np.ndarray, **share: Any) -> EpochBatches:
        """Divides rows into batches in their order; ``share`` is this rank's part of the rows."""
        return ordered_batches(rows, batch_size=self.eval_batch_size, **share)

    @property
    def sampling_rate(self) -> float:
        """The chance of each training example to be in a batch of a private training, after ``setup``."""
        return sampling_rate(len(self._train_rows), self.batch_size)

    @property
    def expected_examples(self) -> int:
        """The number of examples that are expected in a batch of a private training, after ``setup``."""
        return min(self.batch_size, len(self._train_rows))

    def private_batches(self, rows: np.ndarray, **share: int) -> EpochBatches:
        """Draws the batches of an epoch of a private training; ``share`` is this rank's part of each.

        Raises:
            UserError: If no private training has given the seed.
        """
        if self.sampling_seed is None:
            raise UserError(
                "data.private is true: expected PrivateClassifier as model, which keeps the draws of the batches secret"
                " and counts what they cost; compose configs/options/private.yaml"
            )
        return poisson_batches(rows, batch_size=self.batch_size, seed=self.sampling_seed, **share)

    def train_dataloader(self) -> BatchLoader:
        """Batches of the training set in random order."""
        split = self._split(self.train_split)
        take = self.batch_maker(split, is_training=True)
        if self.private:
            take, batches = taking_none(take), self.private_batches(self._train_rows, **self._share())
        else:
            batches = self.train_batches(split, self._train_rows, **self._share())
        self._train_loader = training_loader(take, batches, self.trainer, self._resume_at)
        self._resume_at = {}
        return self._train_loader

    def val_dataloader(self) -> BatchLoader | list[BatchLoader]:
        """Batches of the validation split or the hold-out; none, and no validation, where nothing is held out."""
        if not len(self._validation_rows):
            return []
        return self.eval_loader(self._split(self._validates_on or self.train_split), self._validation_rows)

    def test_dataloader(self) -> BatchLoader:
        """Batches of the test split."""
        split = self._split(self.test_split)
        return self.eval_loader(split, np.arange(len(split)))

    def predict_dataloader(self) -> BatchLoader:
        """Batches of the test split, whose labels are not read."""
        return self.test_dataloader()

    def split_of(self, examples: Sequence[object]) -> Split[Inputs]:
        """Reads examples that a program gives to predict, in their order.

        Raises:
            UserError: For an example that cannot be read, and where the class takes none.
        """
        raise UserError(
            f"{type(self).__name__} takes no examples from a program: derive it from ImageDataModule or TextDataModule"
        )

    def eval_loader(self, split: Split[Inputs], rows: np.ndarray) -> BatchLoader:
        """Batches of some rows of a split, each row once."""
        share = {**self._share(), "equal_counts": divides_weights(self.trainer)}
        return BatchLoader(self.batch_maker(split), self.eval_batches(split, rows, **share), split.names)

    def state_dict(self) -> dict[str, Any]:
        """The place in the training set, and what the divided splits add, as plain types."""
        place = self._train_loader.state_dict() if self._train_loader else {}
        return {**super().state_dict(), "place": place}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Makes training go on from a saved place.

        Lightning restores loaders as well, but not where anything asked for ``estimated_stepping_batches`` before.
        """
        super().load_state_dict(state_dict)
        self._resume_at = state_dict["place"]

    def _share(self) -> dict[str, int]:
        if self.trainer is None:
            return {"rank": 0, "world_size": 1}
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}


def require_at_least(lowest: int, **values: float | None) -> None:
    """Refuses values below the lowest, and null, by the name of the argument.

    Raises:
        UserError: For the first such value.
    """
    for name, value in values.items():
        if value is None or not value >= lowest:  # nan is neither
            raise UserError(f"data.{name} is {'null' if value is None else value}: expected {lowest} or more")
