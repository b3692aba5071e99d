"""What is written: whether it can be, known before the work, and whole or not at all."""

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_transfer.errors import UserError


def check_folder(folder: Path, option: str) -> None:
    """Makes the folder, and tries to write in it.

    Args:
        folder: That of the work's outcome.
        option: What chooses another one.

    Raises:
        UserError: Where that fails.
    """
    with _explained(f"to {folder}", f"folder with {option}"):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def check_file(file: Path) -> None:
    """Tries whether a file that ``--output`` names can be written.

    Raises:
        UserError: Where it cannot.
    """
    with _explained(str(file), "file with --output"):
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        tempfile.TemporaryFile(dir=file.parent).close()


def write_json(file: Path, content: Any) -> None:
    """Writes the file whole or not at all."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(file)


@contextlib.contextmanager
def _explained(what: str, other: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {what}: {error.strerror}; choose another {other}") from error
