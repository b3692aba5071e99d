"""What is written: whether it can be, known before the work, and whole or not at all."""

import json
import tempfile
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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another folder with {option}") from error


def check_file(file: Path) -> None:
    """Tries whether a file that ``--output`` names can be written.

    Raises:
        UserError: Where it cannot.
    """
    if file.is_dir():
        raise UserError(f"cannot write {file}: Is a directory; choose another file with --output")
    try:
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}; choose another file with --output") from error


def write_json(file: Path, content: Any) -> None:
    """Writes the file whole or not at all."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(file)
