"""Finds rows of a table that a quotation mark has joined: two marks in different rows make one cell of all between."""

import re
from typing import NamedTuple

import pyarrow as pa

_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")


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
    the same values, or numbers as they do. Tabs and bars hardly occur within texts, so that their number is enough.
    """
    doubtful = [row for row in joined if all(line.count(separator) == table.num_columns - 1 for line in row.lines)]
    if not doubtful or table.num_columns == 1:
        return None
    if separator in "\t|":
        return doubtful[0].number
    for place, column in enumerate(table.columns):
        known = {value for value in column.to_pylist() if value is not None and not set(value) & {"\n", "\r"}}
        # Numbers that are names of classes occur again and again.
        are_numbers = 2 * len(known) > len(table) - len(joined) and all(map(_NUMBER.fullmatch, known))
        for row in doubtful:
            found = [line.split(separator)[place].strip('"\r\n ') for line in row.lines]
            if all(value in known or (are_numbers and _NUMBER.fullmatch(value)) for value in found):
                return row.number
    return None
