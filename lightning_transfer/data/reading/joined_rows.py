"""Finds rows of a table that a quotation mark has joined: two marks in different rows make one cell of all between."""

import re
from typing import NamedTuple

import pyarrow as pa

_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")
_MOST_VALUES = 1000  # of a column that may have classes


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        cells: The cells.
        lines: The lines of the file that it stands on.
        number: The number of the first of these, from 1.
    """

    cells: list[str]
    lines: list[str]
    number: int


def first_of_several_rows(joined: list[Row], table: pa.Table, separator: str) -> int | None:
    """Finds the first row whose lines look like rows of their own, by what the other rows hold.

    They do where each has as many cells as the table, and one of their columns holds what rows on one line hold there:
    the same few values, or numbers as they do.
    """
    doubtful = [row for row in joined if all(line.count(separator) == table.num_columns - 1 for line in row.lines)]
    if not doubtful or table.num_columns == 1:
        return None
    whole = len(table) - len(joined)
    for place, column in enumerate(table.columns):
        of_joined = {row.cells[place] for row in joined}
        known = {value for value in column.to_pylist() if value not in of_joined or not _breaks(value)}
        are_numbers = bool(known) and all(_NUMBER.fullmatch(value or "") for value in known)
        if not are_numbers and (len(known) > _MOST_VALUES or 2 * len(known) > whole):
            continue
        for row in doubtful:
            found = [line.split(separator)[place].strip('"\r\n ') for line in row.lines]
            if all(value in known or (are_numbers and _NUMBER.fullmatch(value)) for value in found):
                return row.number
    return None


def _breaks(value: str | None) -> bool:
    return value is not None and ("\n" in value or "\r" in value)
