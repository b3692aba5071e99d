"""Reads tables whose cells are set apart by a separator, such as CSV, by Python's ``csv`` in its strict mode.

Every row must have as many cells as the first: nothing is filled up or cut off. A quotation mark that no other one
closes would join all rows up to the next. Where quotation marks join lines that look like rows of their own, they are
text, or else the table is refused.
"""

import csv
import re
import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TextIO

import pyarrow as pa
from lightning.pytorch.utilities import rank_zero_warn

from lightning_transfer.data.reading.joined_rows import Row, first_of_several_rows
from lightning_transfer.data.reading.opened import open_text
from lightning_transfer.data.reading.options import ReaderOptions
from lightning_transfer.errors import UserError

_SEPARATORS = ",;\t|"
_NO_SEPARATOR = "\x1f"  # of a table with one column: the sign that ASCII has for this and nobody uses
_SAMPLE_LINES = 200
_CHUNK_ROWS = 10_000
_MARKS = {"double": '"', "single": "'", None: '"'}
_BLANKS = " \t\r\n\x1a"  # with the sign by which DOS ended files
_SEPARATOR_OF_EXCEL = re.compile(r'"?sep=(.)"?\r?\n?')

csv.field_size_limit(sys.maxsize)  # a cell may be a book


class _QuotationMarkError(Exception):
    """A quotation mark opens or closes a cell where it should not; with the line as argument."""


def read_delimited(file: Path, options: ReaderOptions) -> pa.Table:
    """Reads a table; all cells are texts, and missing ones null.

    Args:
        file: A file of text, which may be compressed.
        options: How it is written; see :class:`ReaderOptions`.

    Raises:
        UserError: For a row that has more or fewer cells than the first, a name of a column that occurs twice, and
            quotation marks that do not match.
    """
    options = replace(options, separator=options.separator or find_separator(file, options))
    joined: list[Row] = []
    has_blanks = _has_blanks_before_marks(file, options)
    try:
        table = _table(file, options, _keeping(joined, _rows(file, options, skip_blanks=has_blanks)))
    except _QuotationMarkError as wrong:
        [line] = wrong.args
        unquoted = replace(options, quoting="none")
        if options.quoting is None and _stands_without_quoting(file, unquoted):
            rank_zero_warn(
                f"{file.name}: quotation marks are read as text, as the one in line {line} opens no cell and each line"
                " is a row without it (data.reader.quoting)"
            )
            return _table(file, unquoted, _rows(file, unquoted))
        raise UserError(
            f"{file.name}, line {line}: a quotation mark opens a cell that does not end where it should; double marks"
            " within cells, or set data.reader.quoting none, or data.reader.escape"
        ) from wrong
    if options.quoting is None and (line := first_of_several_rows(joined, table, str(options.separator))):
        raise UserError(
            f"{file.name}, line {line}: a cell in quotation marks holds lines that look like rows; set"
            " data.reader.quoting none if the marks are text, or double if it is one cell"
        )
    return table


def find_separator(file: Path, options: ReaderOptions) -> str:
    """Finds what separates the cells of a table: what gives the first rows equally many, in the order of likelihood."""
    with open_text(file, options.encoding) as text:
        if match := _SEPARATOR_OF_EXCEL.fullmatch(text.readline()):
            return match[1]
    likely = _SEPARATORS if ".csv" in file.name.lower() else "\t" + _SEPARATORS.replace("\t", "")
    widths = {}
    for separator in likely:
        sample = replace(options, separator=separator)
        with closing(_rows(file, sample, strict=False)) as rows:
            first = list(islice(rows, _SAMPLE_LINES))
        # The last row of the sample may be one that a quotation mark has joined from many.
        widths[separator] = [len(row.cells) for row in first]
    even = [separator for separator, found in widths.items() if len(set(found)) == 1 and found[0] > 1]
    of_first = [separator for separator, found in widths.items() if found and found[0] > 1]
    return [*even, *of_first, _NO_SEPARATOR][0]


def _has_blanks_before_marks(file: Path, options: ReaderOptions) -> bool:
    """Says whether blanks stand before the quotation marks around cells, as in ``1, "good, really"``."""
    mark = _MARKS.get(options.quoting)
    if options.quoting == "none" or mark is None:
        return False
    try:
        with closing(_rows(file, options, skip_blanks=True)) as rows:
            first = list(islice(rows, _SAMPLE_LINES))
    except _QuotationMarkError:
        return False
    before = re.compile(f"{re.escape(str(options.separator))} +{mark}")
    is_before = any(before.search(line) for row in first for line in row.lines)
    return is_before and len({len(row.cells) for row in first}) == 1


def _rows(
    file: Path, options: ReaderOptions, strict: bool = True, skip_blanks: bool = False
) -> Generator[Row, None, None]:
    with open_text(file, options.encoding) as text:
        lines = _Lines(text)
        reader = csv.reader(
            lines,
            delimiter=options.separator or ",",
            quotechar=_MARKS.get(options.quoting),
            quoting=csv.QUOTE_NONE if options.quoting == "none" else csv.QUOTE_MINIMAL,
            escapechar=options.escape,
            skipinitialspace=skip_blanks,
            strict=strict,
        )
        while True:
            lines.taken, start = [], reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise _QuotationMarkError(start) from error
            if cells is None:
                return
            is_of_excel = start == 1 and _SEPARATOR_OF_EXCEL.fullmatch(lines.taken[0])
            may_be_blank = len(cells) == 1 and options.separator != _NO_SEPARATOR
            is_empty = not cells or (may_be_blank and not "".join(lines.taken).strip(_BLANKS))
            if not is_empty and not is_of_excel:  # an empty line is no row
                yield Row(cells, lines.taken, start)


class _Lines:
    """Gives the lines of a file, and keeps those taken since the list was last emptied."""

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self.taken: list[str] = []

    def __iter__(self) -> Iterator[str]:
        for line in self._text:
            self.taken.append(line)
            yield line


def _keeping(joined: list[Row], rows: Iterator[Row]) -> Iterator[Row]:
    """Passes rows on, and keeps those on several lines."""
    for row in rows:
        if len(row.lines) > 1:
            joined.append(row)
        yield row


def _table(file: Path, options: ReaderOptions, rows: Iterator[Row]) -> pa.Table:
    names: list[str] = []
    columns: list[list[pa.Array]] = []
    if options.header is True and (first := next(rows, None)):
        names = _names(file, first.cells)
    elif isinstance(options.header, list):
        names = _names(file, options.header)
    missing = frozenset(options.missing)
    while chunk := list(islice(rows, _CHUNK_ROWS)):
        names = names or [str(number) for number in range(len(chunk[0].cells))]
        for row in chunk:
            if len(row.cells) != len(names):
                raise UserError(
                    f"{file.name}, line {row.number}: {len(row.cells)} cells, expected {len(names)} ({', '.join(names)}"
                    "); quote cells that hold the separator, or set data.reader.separator, header or quoting"
                )
        cells = zip(*(row.cells for row in chunk), strict=True)
        columns.append([pa.array([None if c in missing else c for c in column], pa.large_string()) for column in cells])
    arrays = zip(*columns, strict=True) if columns else [[] for _ in names]
    return pa.table(
        {name: pa.chunked_array(chunks, pa.large_string()) for name, chunks in zip(names, arrays, strict=True)}
    )


def _names(file: Path, cells: list[str]) -> list[str]:
    """Gives the names of columns; a column without a name has its number."""
    names = [cell.strip() or str(number) for number, cell in enumerate(cells)]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"{file.name} has {names.count(name)} columns of the name {name!r}: expected one of each, rename one or"
                " name all by data.reader.header"
            )
    return names


def _stands_without_quoting(file: Path, options: ReaderOptions) -> bool:
    """Says whether each line of a file is a row of the same width, and no cell stands in quotation marks."""
    widths = set()
    for row in _rows(file, options):
        widths.add(len(row.cells))
        if len(widths) > 1 or any(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in row.cells):
            return False
    return True
