"""Reads tables of one split: CSV and its like, JSON, Parquet and Arrow."""

import glob
import hashlib
import json
import os
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets.exceptions import DatasetGenerationError
from datasets.table import InMemoryTable
from lightning.pytorch.utilities import rank_zero_warn

from lightning_transfer.data import cache
from lightning_transfer.data.reading.builders import load_files, reason_of
from lightning_transfer.data.reading.delimited import read_delimited
from lightning_transfer.data.reading.fingerprints import content_fingerprint
from lightning_transfer.data.reading.objects import join, read_objects
from lightning_transfer.data.reading.opened import member_of
from lightning_transfer.data.reading.options import ReaderOptions
from lightning_transfer.errors import UserError

__all__ = ["ReaderOptions", "columns_of_texts", "kind_of_table", "read_tables", "warn_of_missing_texts"]

_LAYOUT = 2  # version of the cached tables and of the rules by which they are read
_KINDS = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".txt"), "delimited"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "json"),
    ".parquet": "parquet",
    ".arrow": "arrow",
}
_COMPRESSED = (".gz", ".bz2", ".xz")
_ARCHIVES = (*_COMPRESSED, ".zip")
_SHOWN_ROWS = 5
_WHOLE = r"^\s*[-+]?\d+\s*$"
_NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"


def kind_of_table(file: Path) -> str | None:
    """Says of what kind a table is by its name: delimited, json, parquet or arrow; None for other files.

    A ``.zip`` without such a name is of the kind of the file in it.
    """
    return _KINDS.get(suffix_of_table(file))


def suffix_of_table(file: Path) -> str:
    """Returns the suffix of a file in lower case, without that of its compression."""
    name = Path(file.name.lower())
    if name.suffix in _COMPRESSED:
        name = name.with_suffix("")
    elif name.suffix == ".zip":
        name = name.with_suffix("") if name.with_suffix("").suffix in _KINDS else Path(member_of(file).lower())
    return name.suffix


def also_unpacked(tables: Sequence[str]) -> list[str]:
    """Finds compressed tables that lie beside the same unpacked, whose rows would count twice."""
    plain = {name.lower() for name in tables if not name.lower().endswith(_ARCHIVES)}
    stems = {os.path.splitext(name)[0] for name in plain}  # noqa: PTH122
    packed = [(name, os.path.splitext(name.lower())[0]) for name in tables if name.lower().endswith(_ARCHIVES)]  # noqa: PTH122
    return [name for name, inner in packed if inner in plain or (name.lower().endswith(".zip") and inner in stems)]


def read_tables(
    files: Sequence[Path], options: ReaderOptions | None = None, texts: Collection[str] = ()
) -> datasets.Dataset:
    """Reads the tables of a split, one below the other, from a cache where their content has been read before.

    In tables of text files, a column that holds nothing but numbers becomes integers, or floating-point numbers. It
    stays as it is where that would change what it says: numbers that begin with 0, or are too large.

    Args:
        files: The files, in order, with the same columns.
        options: How CSV files and their like are written.
        texts: The columns that are texts even where they hold numbers.

    Returns:
        The rows. Its fingerprint depends on the content of the files, and not on their place or age.

    Raises:
        UserError: For files of different kinds or columns, and files that cannot be read.
    """
    options = options or ReaderOptions()
    kinds = {kind_of_table(file) for file in files}
    if len(kinds) > 1 or None in kinds:
        names = ", ".join(file.name for file in files[:4])
        raise UserError(f"{names} are no tables of one kind: expected one of {', '.join(_KINDS)}")
    [kind] = kinds
    content = content_fingerprint(files)
    if kind in ("parquet", "arrow"):
        return _with_plain_texts(_built(files, kind, content))
    table = _cached_table(files, str(kind), content, options)
    for place, name in enumerate(table.column_names):
        if name in texts:
            table = table.set_column(place, name, _as_texts(table[name]))
        elif kind == "delimited":
            table = table.set_column(place, name, _as_numbers(table[name]))
    return datasets.Dataset(InMemoryTable(table), fingerprint=_digest(content, asdict(options), sorted(texts), _LAYOUT))


def _built(files: Sequence[Path], kind: str, content: str) -> datasets.Dataset:
    patterns = [glob.escape(str(file)) for file in files]
    try:
        more = _readable_columns(files[0]) if kind == "parquet" else {}
        return load_files(kind, content, "train", data_files={"train": patterns}, **more)
    except (DatasetGenerationError, ValueError, OSError) as error:
        raise UserError(f"{', '.join(file.name for file in files[:4])} cannot be read: {reason_of(error)}") from error


def _readable_columns(file: Path) -> dict[str, Any]:
    """Names the columns to read where the library has no type for some, such as maps, and says which are left out."""
    schema = pq.read_schema(file)
    left_out = [field.name for field in schema if not _is_known(field)]
    if not left_out:
        return {}
    kinds = ", ".join(f"{name} ({schema.field(name).type})" for name in left_out)
    rank_zero_warn(f"{file.name}: columns left out, as data sets have no type for them: {kinds}")
    kept = pa.schema([field for field in schema if field.name not in left_out])
    return {"columns": kept.names, "features": datasets.Features.from_arrow_schema(kept)}


def _is_known(field: pa.Field) -> bool:
    try:
        datasets.Features.from_arrow_schema(pa.schema([field]))
    except ValueError:
        return False
    return True


def _with_plain_texts(dataset: datasets.Dataset) -> datasets.Dataset:
    """Brings texts that arrow keeps as views, as polars writes them, to the type of other texts."""
    for name, feature in dataset.features.items():
        if getattr(feature, "dtype", None) == "string_view":
            dataset = dataset.cast_column(name, datasets.Value("large_string"))
    return dataset


def columns_of_texts(dataset: datasets.Dataset, columns: Sequence[str]) -> tuple[list[Collection[str]], str]:
    """Returns the texts of columns of a data set, and a fingerprint of them.

    Raises:
        UserError: For a column that does not hold texts.
    """
    for column in columns:
        feature = dataset.features[column]
        if getattr(feature, "dtype", None) not in ("string", "large_string"):
            raise UserError(f"column {column!r} holds {feature}, not texts: name another text_column")
    return [dataset[column] for column in columns], f"{dataset._fingerprint}/{'/'.join(columns)}"


def warn_of_missing_texts(dataset: datasets.Dataset, columns: Sequence[str], place: str) -> None:
    """Warns of rows without a text, or with blanks alone, by their numbers."""
    for column in columns:
        texts = dataset.with_format("arrow")[column][:]
        is_empty = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(texts), ""), True)
        if rows := np.flatnonzero(np.asarray(is_empty)).tolist():
            shown = ", ".join(map(str, rows[:_SHOWN_ROWS])) + ", ..." * (len(rows) > _SHOWN_ROWS)
            rank_zero_warn(f"{len(rows)} rows of {place} have no {column} and count as empty texts: rows {shown}")


def _cached_table(files: Sequence[Path], kind: str, content: str, options: ReaderOptions) -> pa.Table:
    key = {"files": content, "options": asdict(options), "layout": _LAYOUT}

    def build(folder: Path) -> None:
        tables = [
            read_delimited(f, options) if kind == "delimited" else read_objects(f, options.encoding) for f in files
        ]
        _require_same_columns(files, tables)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, (table := join(tables)).schema) as writer:
            writer.write_table(table)
        cache.save(folder / "arrow.npy", np.frombuffer(sink.getvalue(), np.uint8))

    arrays = cache.load_or_build("tables", key, build)
    return pa.ipc.open_file(pa.py_buffer(arrays["arrow"])).read_all()


def _require_same_columns(files: Sequence[Path], tables: Sequence[pa.Table]) -> None:
    expected = tables[0].column_names
    for file, table in zip(files, tables, strict=True):
        if set(table.column_names) != set(expected):
            raise UserError(
                f"{file.name} has the columns {', '.join(table.column_names)}: expected those of {files[0].name},"
                f" {', '.join(expected)}"
            )


def _as_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    is_number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    return column.cast(pa.large_string()) if is_number else column


def _as_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if column.null_count == len(column) or not _all_match(column, _NUMBER):
        return column
    if not _all_match(column, _WHOLE):
        return pc.utf8_trim_whitespace(column).cast(pa.float64())
    trimmed = pc.utf8_trim_whitespace(column)
    try:
        whole = trimmed.cast(pa.int64())
    except pa.ArrowInvalid:  # too large
        return column
    return whole if whole.cast(pa.large_string()).equals(trimmed) else column


def _all_match(column: pa.ChunkedArray, pattern: str) -> bool:
    """Says whether all cells match. One chunk after the other is looked at, as most texts fail in the first."""
    return all(pc.all(pc.match_substring_regex(chunk, pattern)).as_py() is not False for chunk in column.chunks)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
