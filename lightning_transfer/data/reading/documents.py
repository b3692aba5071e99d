"""Reads the texts that a prediction is for: tables as those of the training are read, lines, or a folder of files."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import datasets
from lightning.pytorch.utilities import rank_zero_warn

from lightning_transfer.data.reading.layout import find_layout, warn_of_others
from lightning_transfer.data.reading.opened import open_text
from lightning_transfer.data.reading.options import ReaderOptions
from lightning_transfer.data.reading.tables import (
    columns_of_texts,
    kind_of_table,
    read_tables,
    suffix_of_table,
    warn_of_missing_texts,
)
from lightning_transfer.data.reading.tree import files_below
from lightning_transfer.errors import UserError


class NewTexts(NamedTuple):
    """Texts to predict.

    Attributes:
        columns: The texts of each column, which have equally many rows.
        names: The names of the rows, where they are files; their numbers if None.
    """

    columns: list[list[str]]
    names: list[str] | None = None


def read_documents(path: str, columns: Sequence[str], options: ReaderOptions | None = None) -> NewTexts:
    """Reads the documents of a table, of a file of text (one a line), or of a folder of ``.txt`` files, in order.

    A file of text is a table where its first line names the columns, or ``options`` say how its cells are separated or
    what its columns are called. In a file of lines, bytes that are not in the encoding are replaced. An empty line,
    and a missing cell, is an empty document.

    Args:
        path: The file or the folder.
        columns: The columns of the texts.
        options: How tables are written.

    Raises:
        UserError: For what is missing, empty or cannot be read, and a table without one of the columns.
    """
    options = options or ReaderOptions()
    place = Path(path).expanduser()
    if not place.exists():
        raise UserError(f"data.predict_path {path!r} cannot be read: No such file or directory")
    try:
        found = _read_folder(place, columns, options) if place.is_dir() else _read_file(place, columns, options)
    except (UserError, OSError) as error:
        raise UserError(f"data.predict_path {path!r} cannot be read: {error}") from error
    if not any(text.strip() for column in found.columns for text in column):
        raise UserError(f"data.predict_path {path!r} is empty: expected documents")
    return found


def columns_of_given(documents: Sequence[object], columns: Sequence[str]) -> list[list[str]]:
    """Puts documents that a program gives into columns: strings, or as many in each document as there are columns.

    Args:
        documents: The documents.
        columns: The names of the columns.

    Raises:
        UserError: For a document of another kind or number of texts.
    """
    rows = [[document] if isinstance(document, str) else document for document in documents]
    expected = "a string" if len(columns) == 1 else f"a list of {len(columns)} strings: {', '.join(columns)}"
    for place, row in enumerate(rows):
        is_row = isinstance(row, list | tuple) and len(row) == len(columns) and all(isinstance(it, str) for it in row)
        if not is_row:
            given = row[0] if isinstance(row, list | tuple) and len(row) == 1 else row
            kind = f"{len(given)} texts" if isinstance(given, list | tuple) else type(given).__name__
            raise UserError(f"example {place} is {kind}: expected {expected}")
    return [[row[place] for row in rows] for place in range(len(columns))]  # type: ignore[index]


def _read_folder(folder: Path, columns: Sequence[str], options: ReaderOptions) -> NewTexts:
    below = files_below(folder)
    files = [folder / name for name in below]
    texts = [file for file in files if file.name.lower().endswith(".txt")]
    tables = [file for file in files if kind_of_table(file) and file not in texts]
    if not texts and len(tables) == 1:
        return _read_file(tables[0], columns, options)
    if not texts and len(splits := _splits_of(folder, columns, options)) == 1:
        [open_split] = splits.values()
        return _texts_of(open_split(), columns, folder.name)
    if not texts and splits:
        raise UserError(f"the folder has the splits {', '.join(splits)}: expected one, name the file or folder of it")
    if not texts or tables:
        there_are = ", ".join(file.name for file in files[:4]) or "nothing"
        raise UserError(f"the folder holds {there_are}: expected .txt files, one a document, or give one table")
    _require_one_column(columns)
    names = [file.relative_to(folder).as_posix() for file in texts]
    warn_of_others(f"data.predict_path {str(folder)!r}", below, names)
    documents = ["\n".join(_lines(file, options)) for file in texts]
    return NewTexts([documents], names)


def _splits_of(
    folder: Path, columns: Sequence[str], options: ReaderOptions
) -> dict[str, Callable[[], datasets.Dataset]]:
    found = find_layout(folder, options, columns)
    return found.splits if found else {}


def _read_file(file: Path, columns: Sequence[str], options: ReaderOptions) -> NewTexts:
    kind = kind_of_table(file)
    is_text = kind is None or suffix_of_table(file) == ".txt"
    if not is_text or _is_table(file, columns, options):
        return _read_table(file, columns, options)
    _require_one_column(columns)
    return NewTexts([_lines(file, options)])


def _is_table(file: Path, columns: Sequence[str], options: ReaderOptions) -> bool:
    if options.separator is not None or options.header is not True:
        return True
    with open_text(file, options.encoding, "replace") as text:
        first = text.readline()
    cells = {cell.strip('" ') for cell in re.split(r"[,;\t|]", first.rstrip("\r\n"))}
    return cells.issuperset(columns)


def _read_table(file: Path, columns: Sequence[str], options: ReaderOptions) -> NewTexts:
    return _texts_of(read_tables([file], options, columns), columns, file.name)


def _texts_of(dataset: datasets.Dataset, columns: Sequence[str], place: str) -> NewTexts:
    if not dataset.column_names:
        raise UserError("it is empty")
    missing = [column for column in columns if column not in dataset.column_names]
    if missing:
        there_are = ", ".join(dataset.column_names)
        raise UserError(
            f"the table has no column {missing[0]!r}: its columns are {there_are}; name one by data.text_column, or all"
            " by data.reader.header if the first row is a document"
        )
    texts, _ = columns_of_texts(dataset, columns)
    names = dataset["file_name"][:] if "file_name" in dataset.column_names else None
    warn_of_missing_texts(dataset, columns, place)
    return NewTexts([[text or "" for text in values] for values in texts], names)


def _lines(file: Path, options: ReaderOptions) -> list[str]:
    with open_text(file, options.encoding, "replace") as text:
        content = text.read()
    # Not splitlines(), which also splits at characters that occur within a document.
    if replaced := content.count("\ufffd"):
        rank_zero_warn(
            f"{file.name}: {replaced} times what is not {options.encoding or 'UTF-8'} is replaced; data.reader.encoding"
            " names another encoding"
        )
    end = "\n" if "\n" in content else "\r"
    return [line.removesuffix("\r") for line in content.removesuffix(end).split(end)]


def _require_one_column(columns: Sequence[str]) -> None:
    if len(columns) > 1:
        raise UserError(f"expected a table with the columns {', '.join(columns)}, not lines of text")
