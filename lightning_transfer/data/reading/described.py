"""Makes data sets of pictures that a table beside them describes: ``metadata.csv``, one row for each picture."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import datasets
from datasets.fingerprint import Hasher
from lightning.pytorch.utilities import rank_zero_warn

from lightning_transfer.data.reading.class_folders import ClassFolders
from lightning_transfer.data.reading.labelled_files import fingerprint_of
from lightning_transfer.data.reading.options import ReaderOptions
from lightning_transfer.data.reading.tables import read_tables
from lightning_transfer.errors import UserError

_NAMES = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet")


def describes_pictures(file: str) -> bool:
    """Says whether a file is a table of pictures by its name."""
    return PurePosixPath(file).name.lower() in _NAMES


def read_described(
    folder: Path, tables: Sequence[str], found: ClassFolders, split: str, options: ReaderOptions | None
) -> datasets.Dataset:
    """Reads the rows of tables whose pictures belong to a split.

    Args:
        folder: The data folder.
        tables: The tables; their column ``file_name`` has the paths of pictures, from where the table lies.
        found: The pictures by split and class.
        split: The name of the split.
        options: How the tables are written.

    Returns:
        The columns of the tables and ``image``; also ``label`` where only folders name the classes.

    Raises:
        UserError: For a table without names, a name twice, and a picture that does not exist.
    """
    pictures = {file for files in found.splits.values() for file in files}
    of_split = dict.fromkeys(found.splits[split])
    parts, named = [], set()
    for table in tables:
        rows = read_tables([folder / table], options)
        names = _names(table, rows)
        for name in names:
            if name not in pictures:
                raise UserError(f"{table} names {name}, which is no picture in the data folder: correct the table")
            if name in named:
                raise UserError(f"{name} is named twice in {table}: expected one row for each picture, correct it")
            named.add(name)
        chosen = [row for row, name in enumerate(names) if name in of_split]
        if chosen:
            parts.append(_with_pictures(folder, rows.select(chosen), [names[row] for row in chosen], found))
    left_out = [file for file in of_split if file not in named]
    if left_out:
        some = ", ".join(left_out[:3]) + ", ..." * (len(left_out) > 3)
        rank_zero_warn(f"{len(left_out)} pictures of split {split!r} left out, as no table names them: {some}")
    if not parts:
        raise UserError(f"{', '.join(tables)} names no picture of split {split!r}: correct the table")
    return datasets.concatenate_datasets(parts)


def _names(table: str, rows: datasets.Dataset) -> list[str]:
    if "file_name" not in rows.column_names:
        there_are = ", ".join(rows.column_names)
        raise UserError(f"{table} has no column file_name, its columns are {there_are}: expected the pictures' paths")
    above = PurePosixPath(table).parent
    # Not normpath: a path that leads up is not in the list of pictures, and so refused.
    return [(above / str(name).replace("\\", "/")).as_posix() for name in rows["file_name"]]


def _with_pictures(folder: Path, rows: datasets.Dataset, names: list[str], found: ClassFolders) -> datasets.Dataset:
    more: dict[str, tuple[list[str] | list[int], object]] = {
        "image": ([str(folder / name) for name in names], datasets.Image()),
        "file_name": (names, datasets.Value("large_string")),
    }
    if "label" not in rows.column_names and all(name in found.classes for name in names):
        numbers = {name: number for number, name in enumerate(found.class_names)}
        more["label"] = [numbers[found.classes[name]] for name in names], datasets.ClassLabel(names=found.class_names)
    columns = {**{name: rows[name][:] for name in rows.column_names if name not in more}}
    features = {**rows.features, **{name: feature for name, (_, feature) in more.items()}}
    columns.update({name: values for name, (values, _) in more.items()})
    dataset = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    dataset._fingerprint = fingerprint_of(folder, names, rows._fingerprint, Hasher.hash(columns.get("label")))
    return dataset
