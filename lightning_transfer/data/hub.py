"""Loads a data set by its Hub id, from a mirror of the Hub, or from a folder."""

import difflib
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import datasets
from datasets.data_files import EmptyDatasetError
from datasets.exceptions import DataFilesNotFoundError, DatasetGenerationError
from lightning.pytorch.utilities import rank_zero_warn

from lightning_transfer.data.reading.builders import load_files, reason_of
from lightning_transfer.data.reading.fingerprints import content_fingerprint
from lightning_transfer.data.reading.layout import Layout, find_layout
from lightning_transfer.data.reading.options import ReaderOptions
from lightning_transfer.data.reading.split_words import find_split, in_order, is_test, is_training
from lightning_transfer.data.reading.tree import files_below
from lightning_transfer.errors import UserError
from lightning_transfer.files import MIRROR_VARIABLE, in_mirror, is_hub_id, without_waiting_for_hub

_ARCHIVE = re.compile(r"\.(zip|rar|7z|tgz|tar\.(gz|bz2|xz|zst))$")  # .tar alone holds examples of WebDataset
# What archives raise that the library unpacks.
_DAMAGE = (EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


def locate(path: str) -> str:
    """Returns what ``datasets.load_dataset`` should open for ``path``: a folder if there is one, else the Hub id.

    Args:
        path: A folder, or a Hub id such as ``uoft-cs/cifar10``.

    Raises:
        UserError: If ``path`` is a file, or is no existing folder and cannot be a Hub id, or the mirror is missing.
    """
    if (mirrored := in_mirror(path)) is not None:
        return str(mirrored)
    folder = Path(path).expanduser()
    if folder.is_dir():
        return str(folder.resolve())
    if folder.is_file():
        raise UserError(f"data path {path!r} is a file: give the folder that holds it")
    if not is_hub_id(path):
        raise UserError(f"data path {path!r} does not exist: give a folder, or a Hub id such as uoft-cs/cifar10")
    return path


def load_split(
    path: str,
    split: str,
    *,
    reader: ReaderOptions | None = None,
    texts: Sequence[str] = (),
    **columns: str | Sequence[str],
) -> datasets.Dataset:
    """Loads one split and checks that it has the columns.

    Args:
        path: A Hub id or a folder; see :func:`locate`.
        split: The name of the split, ``train`` for instance, in any case; also a slice of it such as ``train[:100]``.
        reader: How the tables of a folder are written.
        texts: Columns of such tables that are texts even where they hold numbers.
        columns: Argument that names one or several columns -> the columns, which must exist.

    Raises:
        UserError: For a missing folder, split or column, files that cannot be read, an empty split, and a Hub that
            cannot be reached.
    """
    location = locate(path)
    layout = find_layout(Path(location), reader, texts) if Path(location).is_dir() else None
    with _explained(path, split), _without_waiting(location):
        dataset = _load_by_library(path, location, split) if layout is None else _load_part(path, layout, split)
    for note in layout.notes if layout else ():
        rank_zero_warn(f"data set {path!r}: {note}")
    way_out = ", or all by data.reader.header if these are data" if layout else ""
    if dataset.column_names:  # a file of no bytes has none
        place = f"split {split!r} of data set {path!r}"
        try:
            require_columns(dataset, place, layout.unlabelled if layout else "", way_out, **columns)
        except UserError as error:
            if layout:
                raise
            raise UserError(f"{error}{_advice_on_archives(path)}") from error
    if len(dataset) == 0:
        raise UserError(f"split {split!r} of data set {path!r} is empty")
    return dataset


def split_names(path: str) -> list[str]:
    """Returns the names of the splits of a data set; none where they are not known before it is loaded.

    Raises:
        UserError: For a missing folder, and a Hub that cannot be reached.
    """
    location = locate(path)
    if Path(location).is_dir() and (layout := find_layout(Path(location))):
        return list(layout.splits)
    with _explained(path, ""), _without_waiting(location):
        builder = datasets.load_dataset_builder(location)
    return in_order(builder.info.splits or builder.config.data_files or ())


def _load_by_library(path: str, location: str, split: str) -> datasets.Dataset:
    folder = Path(location)
    load = partial(datasets.load_dataset, location)
    if folder.is_dir():
        files = [folder / file for file in files_below(folder)]
        load = partial(load_files, location, content_fingerprint(files, root=folder))
    try:
        return load(split=split)
    except ValueError as error:
        if not str(error).startswith("Unknown split"):
            raise
    names = split_names(path)
    found = find_split(split, names)
    if found in (None, split):
        raise _unknown(path, split, names)
    return load(split=found)


def _load_part(path: str, layout: Layout, split: str) -> datasets.Dataset:
    """Opens a split, or slices of splits as ``load_dataset`` does: ``train[:50%]+test``."""
    parts = [split] if split in layout.splits else [part.strip() for part in split.split("+")]
    opened = []
    for part in parts:
        name, bracket, place = (part, "", "") if part in layout.splits else part.partition("[")
        found = find_split(name, layout.splits)
        if found is None:
            raise _unknown(path, name, list(layout.splits))
        dataset = layout.splits[found]()
        if bracket and layout.is_by_class:
            raise UserError(
                f"split {split!r} is a slice of rows in the order of their classes: expected a whole split, hold a part"
                " of each class out by data.test_fraction or cut by data.train_fraction"
            )
        if bracket:
            [rows] = datasets.ReadInstruction.from_spec(f"x[{place}").to_absolute({"x": len(dataset)})
            start, stop = rows.from_ or 0, len(dataset) if rows.to is None else rows.to
            dataset = dataset.select(range(start, stop))
        opened.append(dataset)
    return datasets.concatenate_datasets(opened) if len(opened) > 1 else opened[0]


def _unknown(path: str, split: str, names: Sequence[str]) -> UserError:
    way_out = "name one of them"
    if any(map(is_training, names)) and is_test(split):
        way_out += ", or hold a part of each class out of the training split by data.test_fraction 0.2"
    return UserError(f"data set {path!r} has no split {split!r}: its splits are {', '.join(names)}; {way_out}")


@contextmanager
def _without_waiting(location: str) -> Iterator[None]:
    """Has the library look only in its cache where a Hub id is to be loaded, and the Hub cannot be reached."""
    if Path(location).is_dir():
        yield
        return
    was_offline = datasets.config.HF_HUB_OFFLINE
    with without_waiting_for_hub() as is_offline:
        datasets.config.HF_HUB_OFFLINE = was_offline or is_offline
        try:
            yield
        finally:
            datasets.config.HF_HUB_OFFLINE = was_offline


@contextmanager
def _explained(path: str, split: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except ConnectionError as error:
        near = difflib.get_close_matches(path, [each.name for each in Path.cwd().iterdir() if each.is_dir()], n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(
            f"data set {path!r} is no folder{meant}, is not in a mirror, and the Hub cannot be reached: set"
            f" {MIRROR_VARIABLE} to a folder that holds {path}, give a folder as data.path, or use the embedded data"
            " (configs/quickstart.yaml)"
        ) from error
    except (DataFilesNotFoundError, EmptyDatasetError) as error:
        there_are = ", ".join(files_below(Path(locate(path)))[:3]) if Path(locate(path)).is_dir() else ""
        raise UserError(
            f"data set {path!r} holds {there_are or 'nothing'}: expected tables such as train.csv, or pictures or texts"
            " in folders of their classes, such as train/cat/1.png"
        ) from error
    except (*_DAMAGE, ValueError, OSError, DatasetGenerationError) as error:
        reason = reason_of(error) + _advice_on_archives(path)
        raise UserError(f"cannot read split {split!r} of data set {path!r}: {reason}") from error
    except IndexError as error:  # datasets raises this for a split without rows
        raise UserError(f"split {split!r} of data set {path!r} is empty") from error


def _advice_on_archives(path: str) -> str:
    """Advises to unpack archives, as the end of a sentence; empty where there are none."""
    files = files_below(Path(locate(path))) if Path(locate(path)).is_dir() else []
    archive = next((file for file in files if _ARCHIVE.search(file.lower())), None)
    return f"; {archive} is an archive, unpack it into the folder" if archive else ""


def require_columns(
    dataset: datasets.Dataset, place: str, unlabelled: str = "", way_out: str = "", **columns: str | Sequence[str]
) -> None:
    """Refuses a data set without one of the columns.

    Args:
        dataset: The data set.
        place: What it is, for the error: ``split 'train' of data set 'pictures'``.
        unlabelled: Why there are no labels, and the way out, where no other column could hold them.
        way_out: What else to do about a column that is missing, as the end of a sentence.
        columns: Argument that names one or several columns -> the columns.

    Raises:
        UserError: For the first column that is missing.
    """
    for argument, given in columns.items():
        for column in [given] if isinstance(given, str) else given:
            if column not in dataset.column_names:
                if unlabelled and argument == "label_column":
                    raise UserError(f"{place} has no column {column!r}: {unlabelled}")
                there_are = ", ".join(dataset.column_names)
                raise UserError(
                    f"{place} has no column {column!r}: its columns are {there_are}; name one by"
                    f" data.{argument}{way_out}"
                )
