"""Chooses the rows that are held out for a test or a validation: stratified by class, or whole groups of rows."""

from collections.abc import Callable, Sequence

import datasets
import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_transfer.data.label_values import clean, is_nothing, some_of
from lightning_transfer.data.natural_order import in_natural_order
from lightning_transfer.data.reading.split_words import find_split, find_validation, parts_of
from lightning_transfer.errors import UserError

ROW_NAME = "row_name"  # the column of what rows without a file of their own are called


class TestHoldOut:
    """Holds a test out of the training split of data that has none, and opens both parts by the names of splits.

    The test depends on its own seed alone: studies vary that of the validation, and choose by it on other rows.

    Args:
        fraction: Share of each class to hold out, from 0 to below 1; with 0 every split is opened as it is.
        seed: Another seed gives another test.
        train_split: The split to hold out of; by this name its other rows are opened.
        test_split: The name of the rows held out.
        label_column: The column of the classes; None where an example has not one class.
        group_column: The column of the groups that stay together, if any.

    Raises:
        UserError: For a fraction out of range.
    """

    __test__ = False  # no test, for all its name

    def __init__(
        self,
        fraction: float,
        seed: int,
        train_split: str,
        test_split: str,
        label_column: str | None,
        group_column: str | None,
    ) -> None:
        if not 0 <= fraction < 1:
            raise UserError(f"data.test_fraction is {fraction}: expected at least 0 and below 1")
        self.fraction = fraction
        self.seed = seed
        self.train_split = train_split
        self.test_split = test_split
        self.label_column = label_column
        self.group_column = group_column

    def open(
        self, split: str, load: Callable[[str], datasets.Dataset], split_names: Callable[[], list[str]]
    ) -> datasets.Dataset:
        """Opens a split, or its part.

        Args:
            split: The name of the split.
            load: Loads a split whole by its name.
            split_names: Gives the names of the splits that the data has.

        Raises:
            UserError: For data that has the test split, and a class that would be held out whole.
        """
        if not self.fraction or split not in (self.train_split, self.test_split):
            return load(split)
        if (own := find_split(self.test_split, split_names())) or self.test_split == self.train_split:
            raise UserError(
                f"data.test_fraction is {self.fraction}, but the data has a split {own or self.train_split}: set it to"
                " 0, or give the hold-out another name by data.test_split"
            )
        whole = load(self.train_split)
        held_out = self._choose(whole)
        # Predictions name rows as slices of the split that the user knows.
        whole = whole.add_column(ROW_NAME, [f"{self.train_split}[{row}]" for row in range(len(whole))])
        return whole.select(np.flatnonzero(held_out if split == self.test_split else ~held_out))

    def _choose(self, whole: datasets.Dataset) -> np.ndarray:
        groups = groups_of(whole, self.group_column, self.train_split) if self.group_column else None
        if self.label_column is None:
            return hold_out(np.zeros(len(whole), np.int64), self.fraction, self.seed, groups)
        classes = _codes(whole, self.label_column)
        held_out = hold_out(classes, self.fraction, self.seed, groups)
        for number in np.unique(classes[held_out]):
            rows = np.flatnonzero(classes == number)
            if held_out[rows].all():
                feature, name = whole.features[self.label_column], whole[int(rows[0])][self.label_column]
                name = feature.int2str(name) if isinstance(feature, datasets.ClassLabel) and name >= 0 else name
                raise UserError(
                    f"data.test_fraction {self.fraction} holds out all {len(rows)} examples of class {name!r}: expected"
                    " some to train on, lower it or leave the class out"
                )
        return held_out


def find_own_validation(
    path: str, asked_for: str | None, train_splits: Sequence[str], test_split: str, names: Sequence[str]
) -> str | None:
    """Finds the split that data has for validation, and says that nothing is held out then.

    Args:
        path: A Hub id or a folder, for the line.
        asked_for: What ``data.validation_split`` is.
        train_splits: The splits that are trained on.
        test_split: The split that is tested on, which must not be chosen by.
        names: The splits that there are.

    Returns:
        The name of the split; None where part of the training splits is to be held out.

    Raises:
        UserError: For a split that is the one to test on.
    """
    trained_on = {find_split(split, names) or split for split in train_splits}
    if asked_for is not None:
        name = find_split(asked_for, names) or asked_for
        if _share_rows(parts_of(name, names), parts_of(test_split, names)):
            raise UserError(
                f"data.validation_split is {asked_for}, the split to test on: expected another one, or"
                f" {train_splits[0]} to hold a part of that out"
            )
        return None if name in trained_on else name
    found = find_validation(names)
    used = [part for split in (*train_splits, test_split) for part in parts_of(split, names)]
    if found is None or found in dict(used):
        return None
    rank_zero_info(
        f"validation on the split {found} of {path}; nothing is held out of {' and '.join(train_splits)}"
        f" (data.validation_split {train_splits[0]} would)"
    )
    return found


def _share_rows(parts: Sequence[tuple[str, str]], others: Sequence[tuple[str, str]]) -> bool:
    """Says whether parts of splits have rows in common, as a split and a slice of it. Two slices may differ."""
    return any(
        name == other and (rows == other_rows or not (rows and other_rows))
        for name, rows in parts
        for other, other_rows in others
    )


def hold_out(classes: np.ndarray, fraction: float, seed: int, groups: np.ndarray | None) -> np.ndarray:
    """Chooses the rows of a test hold-out, at least one of each class where rows have no groups.

    Args:
        classes: int64 [rows].
        fraction: Share of each class to hold out, above 0 and below 1.
        seed: Another seed gives another choice.
        groups: int64 [rows], or None where each row stands for itself.

    Returns:
        bool [rows], true for the rows held out.
    """
    if groups is not None:
        return hold_out_groups(classes, fraction, seed, groups)
    held_out = np.zeros(len(classes), bool)
    for number in np.unique(classes):
        rows = np.flatnonzero(classes == number)
        count = max(1, round(fraction * len(rows)))
        held_out[np.random.default_rng([seed, int(number), 1]).permutation(rows)[:count]] = True
    return held_out


def hold_out_groups(classes: np.ndarray, fraction: float, seed: int, groups: np.ndarray) -> np.ndarray:
    """Chooses whole groups so that about a fraction of each class is held out.

    Groups are looked at in random order. One is taken if the shares of the classes then come closer to the fraction,
    and if no class loses its last rows. If none comes closer, the one that comes closest is taken.

    Args:
        classes: int64 [rows].
        fraction: Share of each class to hold out, above 0 and below 1.
        seed: Another seed gives another choice.
        groups: int64 [rows].

    Returns:
        bool [rows], true for the rows held out.

    Raises:
        UserError: If every group has all rows of some class.
    """
    _, classes, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    order = np.random.default_rng([seed, 2]).permutation(np.unique(groups))
    rows_of = np.split(np.argsort(groups, kind="stable"), np.flatnonzero(np.diff(np.sort(groups))) + 1)
    places = dict(zip(np.unique(groups).tolist(), rows_of, strict=True))
    held = np.zeros(len(sizes))
    chosen: list[int] = []
    nearest: tuple[float, int] | None = None
    for group in order.tolist():
        found, counts = np.unique(classes[places[group]], return_counts=True)
        if (held[found] + counts >= sizes[found]).any():
            continue
        before = np.abs(held[found] / sizes[found] - fraction).sum()
        further = np.abs((held[found] + counts) / sizes[found] - fraction).sum() - before
        if further < 0:
            held[found] += counts
            chosen.append(group)
        elif nearest is None or further < nearest[0]:
            nearest = further, group
    if not chosen and nearest is None:
        raise UserError(
            "data.group_column leaves no group to hold out: expected several groups of every class, name another column"
            " or give a split of its own for it"
        )
    return np.isin(groups, chosen or [nearest[1]])  # type: ignore[index]


def count_shared_groups(train: datasets.Dataset, other: datasets.Dataset, column: str, splits: tuple[str, str]) -> int:
    """Counts the groups of a split of its own that the training split has as well, and warns if there are any.

    Args:
        train: The training split.
        other: The split to validate or to test on.
        column: The column of the groups.
        splits: The names of both.
    """
    of_train, of_other = (set(map(_name_of, dataset.unique(column))) for dataset in (train, other))
    shared = in_natural_order(of_train & of_other)
    if shared:
        rank_zero_warn(
            f"{len(shared)} of {len(of_other)} groups of split {splits[1]} are in {splits[0]} too (data.group_column"
            f" {column}): {some_of(shared)}"
        )
    return len(shared)


def groups_of(dataset: datasets.Dataset, column: str, split: str) -> np.ndarray:
    """Reads the group of each row, int64 [rows], a number for each value of a column.

    Raises:
        UserError: For a row without a group, and where all rows are of one.
    """
    values = dataset.with_format(None)[column][:]
    row = next((row for row, value in enumerate(values) if is_nothing(value)), None)
    if row is not None:
        raise UserError(
            f"group column {column!r} holds nothing in row {row} of split {split!r}: expected a group, give the row one"
            " of its own or leave it out"
        )
    return _codes(dataset, column)


def _codes(dataset: datasets.Dataset, column: str) -> np.ndarray:
    """Numbers the values of a column, whatever they are."""
    values = dataset.with_format(None)[column][:]
    return np.unique([_name_of(value) for value in values], return_inverse=True)[1].astype(np.int64)


def _name_of(value: object) -> str:
    """Names a value as labels are named: without blanks around it, and a whole number by its digits."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else clean(str(value))
