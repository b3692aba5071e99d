"""Finds out how a folder holds its data: saved by a library, in folders of classes, or in tables; and its splits."""

import os
import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import datasets
from lightning.pytorch.utilities import rank_zero_warn

from lightning_transfer.data.pictures.opening import alike, suffixes
from lightning_transfer.data.reading.class_folders import ClassFolders, divide
from lightning_transfer.data.reading.described import describes_pictures, read_described
from lightning_transfer.data.reading.labelled_files import read_pictures, read_texts
from lightning_transfer.data.reading.options import ReaderOptions
from lightning_transfer.data.reading.saved import find_saved
from lightning_transfer.data.reading.split_column import splits_by_column
from lightning_transfer.data.reading.split_words import (
    in_order,
    word_of_file,
    word_of_folder,
    words_of_files,
)
from lightning_transfer.data.reading.tables import also_unpacked, kind_of_table, read_tables
from lightning_transfer.data.reading.tree import files_below
from lightning_transfer.errors import UserError

_CARD = re.compile(r"\A---\s*\n.*?^(configs|dataset_info):.*?^---\s*$", re.DOTALL | re.MULTILINE)
_SHARD = re.compile(r"data/.+-\d{5}-of-\d{5}.*\..+")

_TEXT = re.compile(r"\.txt(\.\w+)?$")
# Files that hold no rows: what libraries say of data in JSON, and what a system shows of a folder.
_OF_LIBRARIES = frozenset({"config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
_OF_SYSTEMS = frozenset({"thumbs.db", "desktop.ini"})
_ABOUT_THE_DATA = re.compile(r"(readme|licen[cs]e|citation)\b.*", re.IGNORECASE)  # which is for people


class Layout(NamedTuple):
    """How a folder holds its data.

    Attributes:
        splits: Name of a split -> what opens it.
        notes: What a user should hear of, a line each, such as files that were left out.
        unlabelled: Why rows have no labels, and the way out; empty where folders do not name the classes.
        is_by_class: Whether the rows of a split are in the order of their classes.
    """

    splits: dict[str, Callable[[], datasets.Dataset]]
    notes: Sequence[str] = ()
    unlabelled: str = ""
    is_by_class: bool = False


def find_layout(folder: Path, options: ReaderOptions | None = None, texts: Sequence[str] = ()) -> Layout | None:
    """Finds the splits of a folder, and how to open each.

    Args:
        folder: The folder.
        options: How tables are written.
        texts: Columns of tables that are texts even where they hold numbers.

    Returns:
        The layout, or None for what ``datasets.load_dataset`` knows better: folders as on the Hub, with a card that
        describes them or numbered shards, and files that are neither pictures nor texts nor tables.

    Raises:
        UserError: For a folder that cannot be read.
    """
    found = _find(folder, options, texts)
    return found and found._replace(splits={name: found.splits[name] for name in in_order(found.splits)})


def _find(folder: Path, options: ReaderOptions | None, texts: Sequence[str]) -> Layout | None:
    if saved := find_saved(folder):
        return Layout(saved)
    files = files_below(folder)
    if _is_of_hub(folder, files):
        return None
    known = suffixes()
    pictures = [file for file in files if os.path.splitext(file)[1].lower() in known]  # noqa: PTH122
    are_pictures = set(pictures)
    others = [file for file in files if file not in are_pictures]
    tables = [file for file in others if _is_table(folder / file)]
    notes = [file for file in tables if _TEXT.search(file.lower())]
    tables = [file for file in tables if not _TEXT.search(file.lower())]
    described = [file for file in tables if describes_pictures(file)]
    if pictures:
        found = divide(pictures)
        if described or not _name_pictures(folder, tables, pictures, found):
            return _of_pictures(folder, found, described, _to_name(others, described), options)
    if notes and (by_class := _texts_by_class(notes)):
        return _of_texts(folder, by_class, _to_name(others, notes), options)
    if tables or notes:
        return _of_tables(folder, tables or notes, notes if tables else [], options, texts)
    return None


def _is_of_hub(folder: Path, files: Sequence[str]) -> bool:
    card = folder / "README.md"
    if card.is_file() and _CARD.search(card.read_text(encoding="utf-8", errors="replace")):
        return True
    # The library takes brackets in a path for a pattern.
    return not re.search(r"[\[\]*?]", str(folder)) and any(_SHARD.fullmatch(file) for file in files)


def _to_name(others: Sequence[str], known: Sequence[str]) -> list[str]:
    """Finds files that are not read and that a user may take for data, those in folders first."""
    read = set(known)
    found = [
        file
        for file in others
        if file not in read
        and (name := os.path.basename(file)).lower() not in _OF_SYSTEMS  # noqa: PTH119
        and name not in _OF_LIBRARIES
        and not _ABOUT_THE_DATA.fullmatch(name)
    ]
    return sorted(found, key=lambda file: "/" not in file)


def _notes_of(others: Sequence[str]) -> list[str]:
    if not others:
        return []
    some = ", ".join(others[:3]) + ", ..." * (len(others) > 3)
    return [f"{len(others)} {'files' if len(others) > 1 else 'file'} of other kinds left out: {some}"]


def warn_of_others(place: str, files: Sequence[str], read: Sequence[str]) -> None:
    """Warns of files that are not read to predict, and that a user may take for data.

    Args:
        place: What has them, for the words: ``data.predict_path 'pictures'``.
        files: All files.
        read: Those that are read.
    """
    for note in _notes_of(_to_name(files, read)):
        rank_zero_warn(f"{place}: {note}")


def _is_table(file: Path) -> bool:
    if file.name in _OF_LIBRARIES:
        return False
    try:
        return kind_of_table(file) is not None
    except UserError:  # an archive of something else
        return False


def _name_pictures(folder: Path, tables: Sequence[str], pictures: Sequence[str], found: ClassFolders) -> bool:
    """Says whether a table at the top names pictures, as those of contests do, by its first part."""
    at_top = [table for table in tables if "/" not in table and (folder / table).is_file()]
    if not at_top:
        return False
    names = {alike(name) for file in pictures for name in (Path(file).name, Path(file).stem)}
    # Beside folders of classes a table has to name most pictures, as it may hold numbers that are names by chance.
    least = len(pictures) / 2 if len(found.class_names) > 1 else 1
    for table in at_top:
        with (folder / table).open("rb") as stream:
            start = stream.read(1 << 16).decode("utf-8", "replace")
        words = re.split(r"[\s,;|\"'/\\:\[\]{}]+", start)
        cells = re.split(r"[\t\r\n,;|\"'/\\:\[\]{}]+", start)  # a name may have blanks
        named = names.intersection(alike(word.strip()) for word in (*words, *cells))
        is_whole = (folder / table).stat().st_size <= 1 << 16
        if len(named) >= (least if is_whole else min(least, len(start.splitlines()) / 2)):
            return True
    return False


def _of_pictures(
    folder: Path,
    found: ClassFolders,
    described: Sequence[str],
    others: Sequence[str],
    options: ReaderOptions | None,
) -> Layout:
    if described:
        read: Callable[[str], datasets.Dataset] = partial(_read_described, folder, described, found, options)
    else:
        read = partial(read_pictures, folder, found)
    return _of_classes(found, read, others, bool(described))


def _read_described(
    folder: Path, tables: Sequence[str], found: ClassFolders, options: ReaderOptions | None, split: str
) -> datasets.Dataset:
    return read_described(folder, tables, found, split, options)


def _of_texts(folder: Path, found: ClassFolders, others: Sequence[str], options: ReaderOptions | None) -> Layout:
    encoding = options.encoding if options else None
    return _of_classes(found, lambda split: read_texts(folder, found, split, encoding), others)


def _of_classes(
    found: ClassFolders, read: Callable[[str], datasets.Dataset], others: Sequence[str], is_described: bool = False
) -> Layout:
    notes = [*found.notes, *_notes_of(others)]
    unlabelled = ""
    if not is_described:
        unlabelled = "labels are the names of folders: leave data.label_column at label"
        if not found.classes:
            unlabelled = "its files lie in no folders of classes: expected such as train/cat/1.png and train/dog/2.png"
    # Tables may be in any order.
    return Layout({name: partial(read, name) for name in found.splits}, notes, unlabelled, not is_described)


def _texts_by_class(files: Sequence[str]) -> ClassFolders | None:
    """Divides texts by folders, if these are classes and not places of tables."""
    in_folders = [file for file in files if "/" in file]
    if not in_folders or all(word_of_file(Path(file).name) for file in in_folders):
        return None
    found = divide(files)
    has_splits = len(found.splits) > 1 or bool(word_of_folder(in_folders[0].split("/")[0]))
    return found if len(found.class_names) > (0 if has_splits else 1) else None


def _of_tables(
    folder: Path, tables: Sequence[str], others: Sequence[str], options: ReaderOptions | None, texts: Sequence[str]
) -> Layout:
    unpacked = also_unpacked(tables)
    tables = [file for file in tables if file not in unpacked]
    words = _words_of_tables(tables)
    named = [file for file in tables if file in words]
    splits: dict[str, list[str]] = {}
    for file in named or tables:
        splits.setdefault(words.get(file, "train"), []).append(file)
    notes = []
    if left_out := [*(file for file in tables if named and file not in words), *others]:
        some = ", ".join(left_out[:3]) + ", ..." * (len(left_out) > 3)
        notes.append(f"{len(left_out)} files left out beside the tables of {', '.join(in_order(splits))}: {some}")
    if unpacked:
        notes.append(f"{', '.join(unpacked)} left out, as the same lies unpacked beside it")
    by_name: dict[str, list[str]] = {}  # a file or folder at the top may be asked for by its own name
    for file in tables:
        if file not in words:
            by_name.setdefault(file.split("/")[0].partition(".")[0], []).append(file)
    splits |= by_name if named or len(by_name) > 1 else {}
    opened: dict[str, Callable[[], datasets.Dataset]] = {
        name: partial(read_tables, [folder / file for file in files], options, texts) for name, files in splits.items()
    }
    if list(opened) == ["train"] and not named:
        opened["train"] = cache(opened["train"])  # read here, and not again where the split is opened
        if by_column := splits_by_column(opened["train"]):
            column, opened = by_column
            notes.append(f"splits are the values of column {column!r}: {', '.join(in_order(opened))}")
    return Layout(opened, notes)


def _words_of_tables(files: Sequence[str]) -> dict[str, str]:
    """Finds the splits of tables: by the folders that they lie in, or by their names."""
    found = {file: word for file in files for folder in file.split("/")[-2::-1] if (word := word_of_folder(folder))}
    by_name = words_of_files(file.split("/")[-1] for file in files if file not in found)
    return found | {
        file: by_name[name] for file in files if (name := file.split("/")[-1]) in by_name and file not in found
    }
