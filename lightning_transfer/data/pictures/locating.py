"""Finds the files of pictures: all below a folder, or those that a table names."""

import os
from collections.abc import Sequence
from pathlib import Path

import datasets

from lightning_transfer.data.pictures.opening import alike, suffixes
from lightning_transfer.data.reading.tree import files_below
from lightning_transfer.errors import UserError


def pictures_below(folder: Path) -> list[Path]:
    """Lists the files of pictures in a folder and in those below it, in natural order; see :func:`files_below`.

    Args:
        folder: The folder.

    Returns:
        Paths that begin with the folder's. A link that leads nowhere is among them.

    Raises:
        UserError: For a missing folder.
    """
    if not folder.is_dir():
        raise UserError(f"folder {str(folder)!r} does not exist: expected a folder of images")
    return [folder / file for file in files_below(folder) if Path(file).suffix.lower() in suffixes()]


def folders_of_names(location: Path, split: str, image_folder: str | None) -> tuple[list[Path], list[Path]]:
    """Finds the folders of the files that a table of a data set names.

    Args:
        location: The folder of the data set; none for one of the Hub.
        split: The name of the split.
        image_folder: The folder that a user names for it, in which ``{split}`` stands for the split.

    Returns:
        The folders that names are relative to, and those that absolute paths may lead into besides.

    Raises:
        UserError: If the folder that a user names does not exist.
    """
    downloads = [Path(folder) for folder in (datasets.config.HF_CACHE_HOME, datasets.config.HF_DATASETS_CACHE)]
    if image_folder is None:
        return ([location, location / split] if location.is_dir() else []), downloads
    named = image_folder.replace("{split}", split)
    for folder in (Path(named).expanduser(), location / named):
        if folder.is_dir():
            return [folder], [location, *downloads]
    raise UserError(f"data.image_folder {named!r} does not exist: expected a folder, here or in {location}")


class Locator:
    """Finds the files that a table names. It looks at no file outside of its folders, whatever the table says.

    A name may lack the suffix. Letters may differ in case, accents in their encoding, and numbers in leading zeros.

    Args:
        folders: The folders that names are relative to, in the order in which they are looked at.
        trusted: More folders that an absolute path may lead into.
    """

    def __init__(self, folders: Sequence[Path], trusted: Sequence[Path] = ()) -> None:
        self._folders = [Path(os.path.normpath(folder.absolute())) for folder in folders]
        self._trusted = [*self._folders, *trusted]
        self._listings: dict[tuple[Path, bool], dict[str, list[Path]]] = {}

    def find(self, name: str | int) -> Path:
        """Finds the file of a name.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If several files may be meant, or the name is an address or leads out of the folders.
        """
        text = str(name).strip()
        if "://" in text:
            raise ValueError("it is an address, and only files are read: download them")
        spellings = dict.fromkeys((text, text.replace("\\", "/")))
        paths = [Path(os.path.normpath(folder / spelling)) for folder in self._folders for spelling in spellings]
        inside = [path for path in paths if any(path.is_relative_to(trusted) for trusted in self._trusted)]
        for path in inside:
            if path.is_file():
                return path
            if found := self._alike(path):
                return found
        places = " and ".join(map(str, self._folders))
        found_out = f"there is no such file in {places}" if inside else f"it leads out of {places}"
        raise FileNotFoundError(f"{found_out}: set data.image_folder to the folder of the files")

    def _alike(self, path: Path) -> Path | None:
        """Finds the picture in the folder of a path whose name is alike, else the one whose stem is."""
        for by_stem in (False, True):
            found = self._listing(path.parent, by_stem).get(alike(path.name), [])
            if len(found) > 1:
                names = ", ".join(sorted(file.name for file in found)[:3])
                raise ValueError(f"several files may be meant, {names}: name one of them")
            if found:
                return found[0]
        return None

    def _listing(self, folder: Path, by_stem: bool) -> dict[str, list[Path]]:
        """Lists the pictures of a folder by what their names have in common with others, once."""
        if (folder, by_stem) not in self._listings:
            by_name = self._listings[folder, by_stem] = {}
            for file in folder.iterdir() if folder.is_dir() else ():
                if not file.name.startswith(".") and file.suffix.lower() in suffixes():
                    by_name.setdefault(alike(file.stem if by_stem else file.name), []).append(file)
        return self._listings[folder, by_stem]
