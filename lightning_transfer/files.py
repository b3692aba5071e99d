"""What is written: whether it can be, known before the work, and whole or not at all; and what files say of files."""

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
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


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Puts a file or a folder in its place in one step, once all of it is on the disk.

    A process that is killed meanwhile, and a block that raises, leave what was there before. A device or a pipe, as
    ``/dev/stdout`` may be, is written directly.

    Args:
        target: The place; the folder around it is made. A symbolic link to it stays one.

    Yields:
        The path beside it, at which the block writes the file, or makes the folder and writes what belongs in it.
    """
    if target.exists() and not target.is_file() and not target.is_dir():
        yield target
        return
    target = target.resolve()
    # One name, not a random one: what a killed process has left is overwritten by the next.
    partial = target.with_name(f".{target.name}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove(partial)
    try:
        yield partial
        for path in [partial, *partial.rglob("*")]:
            _sync(path)
        if partial.is_dir():  # else what is in the way stays there: only a folder takes the place of a folder
            _remove(target)
        partial.replace(target)
        _sync(target.parent)  # without it a crash of the machine may undo the rename
    finally:
        with contextlib.suppress(OSError):
            _remove(partial)


def write_text(file: Path, text: str) -> None:
    """Writes a text in UTF-8, whole or not at all."""
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(file: Path, content: Any) -> None:
    """Writes JSON, whole or not at all."""
    write_text(file, json.dumps(content, indent=1))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def named_in(folder: Path, said: object, said_folder: str = "") -> Path | None:
    """Finds the file in a known folder that some file's content means. No other place and no address is looked at.

    Args:
        folder: Where the file must lie, symbolic links followed.
        said: What the content says: any path, of which only the name counts.
        said_folder: The folder that the content says it lies in: what follows it counts as the name.

    Returns:
        The file, or None where there is none of that name, and where it is a link out of the folder.
    """
    if not isinstance(said, str):
        return None
    path = PurePosixPath(said)
    name = path.relative_to(said_folder) if said_folder and path.is_relative_to(said_folder) else path.name
    file = folder / name
    inside = file.exists() and file != folder and file.resolve().is_relative_to(folder.resolve())
    return file if inside and ".." not in file.relative_to(folder).parts else None


@contextlib.contextmanager
def _explained(what: str, other: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {what}: {error.strerror}; choose another {other}") from error
