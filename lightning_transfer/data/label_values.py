"""Names the values of labels, whatever their type: whole numbers, words, truth values, class labels."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Blanks, and what is as invisible: the mark of byte order and the space without width.
_BLANK_ENDS = re.compile(r"^[\s\ufeff\u200b]+|[\s\ufeff\u200b]+$")
_MOST_SHOWN = 8  # names of classes in a line


class NamedValues(NamedTuple):
    """Holds the values of a column and their names, each distinct value once.

    Attributes:
        values: Distinct values as they are in the data.
        names: The name of each, None where it names no class.
        codes: int64 [rows], the place of each row's value in ``values``.
    """

    values: list[Any]
    names: list[str | None]
    codes: np.ndarray

    def first_row(self, places: Sequence[int] | np.ndarray) -> int:
        """Returns the first row whose value is at one of the places."""
        return int(np.flatnonzero(np.isin(self.codes, places))[0])


def named_values(column: pa.ChunkedArray | pa.Array, feature: Any) -> NamedValues:
    """Names the values of a column.

    Args:
        column: The labels.
        feature: Their type in the data set.
    """
    if pa.types.is_float16(column.type):  # arrow does not look these up
        column = column.cast(pa.float32())
    distinct = column.unique()
    codes = pc.index_in(column, value_set=distinct, skip_nulls=False).to_numpy().astype(np.int64)
    values = distinct.to_pylist()
    return NamedValues(values, [name_of(value, feature) for value in values], codes)


def name_of(value: Any, feature: Any) -> str | None:
    """Names a label: a whole number by its digits, a word without blanks around it.

    Returns:
        The name; None for a value that names no class: a negative number, a fraction, and nothing at all.
    """
    if isinstance(feature, datasets.ClassLabel):
        return feature.names[value] if value is not None and 0 <= value < len(feature.names) else None
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return clean(value) or None
    is_whole = isinstance(value, int | float | Decimal) and value >= 0 and value % 1 == 0
    return str(int(value)) if is_whole else None


def clean(word: str) -> str:
    """Removes the blanks around a word, and writes accents in one way."""
    return _BLANK_ENDS.sub("", unicodedata.normalize("NFC", word))


def is_nothing(value: Any) -> bool:
    """Says whether a cell is empty: nothing, not a number, or blanks alone."""
    return value is None or value != value or (isinstance(value, str) and not clean(value))


def places_of(names: Sequence[str | None], class_names: Sequence[str]) -> np.ndarray:
    """Finds names among those of the classes: int64 [names], -1 where there is none."""
    numbers: Mapping[str | None, int] = {
        **{clean(name): number for number, name in enumerate(class_names)},
        **{name: number for number, name in enumerate(class_names)},  # as written comes first
    }
    return np.array([numbers.get(name, numbers.get(name and clean(name), -1)) for name in names], np.int64)


def some_of(names: Sequence[str]) -> str:
    """Lists names in a line: the first of many, and numbers from 0 by their ends."""
    if len(names) > 1 and list(names) == [str(number) for number in range(len(names))]:
        return f"0 to {len(names) - 1}"
    return ", ".join(map(in_line, names[:_MOST_SHOWN])) + ", ..." * (len(names) > _MOST_SHOWN)


def in_line(name: str) -> str:
    """Writes a name as it is, or as Python would where it holds a line break or what cannot be seen."""
    return name if name.isprintable() else repr(name)


def row_name(dataset: datasets.Dataset, split: str, row: int) -> str:
    """Names a row by its split and number, and by its file if it comes from one of its own."""
    place = f"row {row} of split {split!r}"
    if "file_name" not in dataset.column_names:
        return place
    return f"{place}, {dataset.select_columns('file_name')[row]['file_name']}"
