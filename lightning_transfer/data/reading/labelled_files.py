"""Makes data sets of files that each hold one example, a picture or a text, and whose folders name their classes."""

import os
from collections.abc import Sequence
from pathlib import Path

import datasets
from datasets.fingerprint import Hasher

from lightning_transfer.data.reading.class_folders import ClassFolders
from lightning_transfer.data.reading.fingerprints import content_fingerprint
from lightning_transfer.data.reading.opened import open_text
from lightning_transfer.errors import UserError


def read_pictures(folder: Path, found: ClassFolders, split: str) -> datasets.Dataset:
    """Makes a data set of the pictures of a split, which are decoded only when a row is read.

    Args:
        folder: The data folder.
        found: Its files by split and class.
        split: The name of the split.

    Returns:
        The columns ``image`` and ``file_name``, with classes ``label``, and ``folder`` where they have folders in them.
    """
    files = found.splits[split]
    return _dataset(folder, found, files, "image", [str(folder / file) for file in files], datasets.Image())


def read_texts(folder: Path, found: ClassFolders, split: str, encoding: str | None) -> datasets.Dataset:
    """Reads the texts of a split, each whole; otherwise as :func:`read_pictures`, with ``text`` for ``image``.

    Args:
        folder: The data folder.
        found: Its files by split and class.
        split: The name of the split.
        encoding: The encoding of the files; see :func:`open_text`.

    Raises:
        UserError: For a file that cannot be read or decoded.
    """
    files = found.splits[split]
    texts = []
    for file in files:
        with open_text(folder / file, encoding) as text:
            texts.append(text.read())
    return _dataset(folder, found, files, "text", texts, datasets.Value("large_string"))


def fingerprint_of(folder: Path, files: Sequence[str], *more: object) -> str:
    """Makes the fingerprint of a data set from what its files hold and are called, and from what else it depends on.

    A file that does not exist or cannot be read is missed where it is to be decoded, and not here.
    """
    there = [path for file in files if os.access(path := folder / file, os.R_OK)]
    content = content_fingerprint(there, root=folder)
    fingerprint: str = Hasher.hash([content, *more])
    return fingerprint


def _dataset(
    folder: Path, found: ClassFolders, files: list[str], column: str, content: list[str], feature: object
) -> datasets.Dataset:
    for file in files:
        if os.fsencode(file) != file.encode("utf-8", "replace"):  # arrow holds no other text
            raise UserError(f"file {os.fsencode(file)!r} has a name that is not UTF-8: expected UTF-8, rename it")
    columns: dict[str, list[str] | list[int]] = {column: content, "file_name": files}
    features = {column: feature, "file_name": datasets.Value("large_string")}
    names = found.class_names
    if names:
        numbers = {name: number for number, name in enumerate(names)}
        columns["label"] = [numbers[found.classes[file]] if file in found.classes else -1 for file in files]
        features["label"] = datasets.ClassLabel(names=names)
    if any(found.folders.values()):
        columns["folder"] = [found.folders.get(file, "") for file in files]
        features["folder"] = datasets.Value("large_string")
    dataset = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    dataset._fingerprint = fingerprint_of(folder, files, columns.get("label"), names, columns.get("folder"))
    return dataset
