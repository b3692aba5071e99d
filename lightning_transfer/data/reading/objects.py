"""Reads tables in JSON: an object in each line, a list of objects, or an object of columns."""

import json
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa

from lightning_transfer.data.reading.opened import open_text
from lightning_transfer.errors import UserError

_CHUNK_ROWS = 10_000

Object = dict[str, Any]


def read_objects(file: Path, encoding: str | None = None) -> pa.Table:
    """Reads a table; a key that an object does not have is null there.

    A column that holds texts beside other values holds all as texts.

    Args:
        file: A file of JSON or JSON Lines, which may be compressed.
        encoding: The encoding; see :func:`open_text`.

    Raises:
        UserError: For a line that is no JSON object, an object that has a key twice, and what is no Unicode.
    """
    with open_text(file, encoding) as text:
        rows = _objects(file, text)
        chunks = []
        try:
            while chunk := list(islice(rows, _CHUNK_ROWS)):
                names = dict.fromkeys(chain.from_iterable(chunk))
                chunks.append(pa.table({name: _column([row.get(name) for row in chunk]) for name in names}))
        except UnicodeEncodeError as error:
            wrong = ascii(error.object[error.start])
            raise UserError(f"{file.name} holds {wrong}, half of a character: expected Unicode, correct it") from error
        except RecursionError as error:
            raise UserError(f"{file.name} nests lists too deeply: expected an object for each row") from error
    return join(chunks) if chunks else pa.table({})


def join(tables: list[pa.Table]) -> pa.Table:
    """Puts tables below each other; columns of different types become texts where no number type holds both."""
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowTypeError:
        types: dict[str, set[pa.DataType]] = {}
        for field in chain.from_iterable(table.schema for table in tables):
            types.setdefault(field.name, set()).add(field.type)
        for name in [name for name, found in types.items() if len(found - {pa.null()}) > 1]:
            tables = [_with_texts(table, name) if name in table.column_names else table for table in tables]
        return pa.concat_tables(tables, promote_options="permissive")


def _with_texts(table: pa.Table, name: str) -> pa.Table:
    texts = pa.array(map(_as_text, table[name].to_pylist()), pa.large_string())
    return table.set_column(table.column_names.index(name), name, texts)


def _column(values: list[Any]) -> pa.Array:
    try:
        column = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array(map(_as_text, values), pa.large_string())
    return column.cast(pa.large_string()) if column.type == pa.string() else column


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _objects(file: Path, text: TextIO) -> Iterator[Object]:
    lines = ((number, line) for number, line in enumerate(text, start=1) if line.strip())
    first = list(islice(lines, 2))
    if not first:
        return
    try:
        start = json.loads(first[0][1])
    except (ValueError, RecursionError):  # an object over several lines, or a list
        start = None
    if isinstance(start, dict) and not (len(first) == 1 and _is_whole(start)):
        for number, line in chain(first, lines):
            yield _object_of(file, number, line)
        return
    text.seek(0)
    try:
        whole = json.load(text, object_pairs_hook=_once)
    except ValueError as error:
        raise UserError(f"{file.name} is not JSON: {error}") from error
    yield from _rows_of(file, whole)


def _is_whole(found: Object) -> bool:
    """Says whether an object is a table by itself: columns, or rows under one key."""
    return bool(found) and all(isinstance(value, list | dict) for value in found.values())


def _rows_of(file: Path, whole: Any) -> Iterator[Object]:
    """Gives the rows of a list of objects, of such a list under the only key, or of an object of columns."""
    if isinstance(whole, dict) and _is_whole(whole):
        values = list(whole.values())
        if len(values) == 1 and isinstance(values[0], list) and all(isinstance(row, dict) for row in values[0]):
            whole = values[0]
        elif all(isinstance(column, dict) for column in values):
            whole = _rows_by_name(whole)
        elif all(isinstance(column, list) for column in values) and len({len(column) for column in values}) == 1:
            whole = [dict(zip(whole, row, strict=True)) for row in zip(*values, strict=True)]
    rows = whole if isinstance(whole, list) else [whole]
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(f"{file.name}: row {number} is {json.dumps(row)[:40]}, expected an object with the columns")
        yield row


def _rows_by_name(whole: Object) -> list[Object]:
    """Gives the rows of columns whose cells have the name of their row, as pandas writes them, or of rows by name."""
    places = dict.fromkeys(chain.from_iterable(whole.values()))
    if all(name.isdecimal() for name in whole) and not all(place.isdecimal() for place in places):
        return list(whole.values())
    return [{name: column.get(place) for name, column in whole.items()} for place in places]


def _object_of(file: Path, number: int, line: str) -> Object:
    try:
        row = json.loads(line, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise UserError(f"{file.name}, line {number} is not JSON: {error.msg}, at character {error.colno}") from error
    except ValueError as error:
        raise UserError(f"{file.name}, line {number}: {error}") from error
    if not isinstance(row, dict):
        raise UserError(f"{file.name}, line {number} is {line.strip()[:40]}: expected an object with the columns")
    return row


def _once(pairs: list[tuple[str, Any]]) -> Object:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the key {twice!r} twice, expected each once")
    return found
