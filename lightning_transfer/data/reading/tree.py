"""Lists the files of a folder as a person sees them: links followed, hidden files left out, numbers in their order."""

import os
from pathlib import Path

from lightning_transfer.data.natural_order import in_natural_order
from lightning_transfer.errors import UserError

# Folders that systems make beside a person's own files, and that hold copies or small previews of them.
_OF_SYSTEMS = frozenset({"__macosx", "__pycache__", "@eadir", "$recycle.bin", "system volume information"})


def files_below(folder: Path) -> list[str]:
    """Lists the files of a folder and of all folders below it, in natural order.

    Symbolic links are followed, but for those that lead back up. A link to nothing counts as a file, so that it is
    missed by name. Names that begin with a dot or ``~$`` are left out, and folders that systems make.

    Args:
        folder: The folder.

    Returns:
        Paths relative to the folder, with forward slashes.

    Raises:
        UserError: For a folder that cannot be listed.
    """
    found: list[str] = []
    _collect(folder, "", found, ())
    return in_natural_order(found)


def _collect(folder: Path, above: str, found: list[str], entered: tuple[tuple[int, int], ...]) -> None:
    try:
        status = folder.stat()
        entries = list(os.scandir(folder))
    except OSError as error:
        raise UserError(f"folder {str(folder)!r} cannot be read: {error.strerror}; correct its permissions") from error
    place = status.st_dev, status.st_ino
    if place in entered:  # a link to a folder above
        return
    for entry in entries:
        if entry.name.startswith((".", "~$")):  # as office programs call the locks of open files
            continue
        if not _is_folder(entry):
            found.append(above + entry.name)
        elif entry.name.lower() not in _OF_SYSTEMS:
            _collect(folder / entry.name, f"{above}{entry.name}/", found, (*entered, place))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
