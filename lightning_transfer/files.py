"""Writes files whole or not at all, checks beforehand that it can, and finds files that others name, also in mirrors.

``LIGHTNING_TRANSFER_MIRROR`` names folders in which Hub ids are looked up first, joined as those of ``PATH`` are. For
example ``/data:/models`` stands for ``/data/uoft-cs/cifar10``, or else ``/models/uoft-cs/cifar10``. Nodes without a
network get their data and their pretrained models this way.
"""

import contextlib
import errno
import functools
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lightning_transfer.errors import UserError, in_one_line

MIRROR_VARIABLE = "LIGHTNING_TRANSFER_MIRROR"
_LONGEST_NAME = 200  # bytes; file systems take 255, and names of files are longer than that of their run
_HUB_SECONDS = 10.0  # to wait for the Hub's first answer
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def check_folder(folder: Path, option: str) -> None:
    """Makes the folder, and tries to write in it.

    Args:
        folder: Folder of the results of the work ahead.
        option: Option of the command line that chooses another folder.

    Raises:
        UserError: If the folder cannot be made or written in.
    """
    with _explained(f"to {folder}", f"folder with {option}"):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def check_file(file: Path, option: str = "--output") -> None:
    """Checks that a file can be written.

    Args:
        file: The file.
        option: Option of the command line that chooses another file.

    Raises:
        UserError: If it cannot.
    """
    with writable(file, option):
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        tempfile.TemporaryFile(dir=file.parent).close()


@contextlib.contextmanager
def writable(file: Path, option: str = "--output") -> Iterator[None]:
    """Words in one line why a file cannot be written, in a block that writes it.

    Args:
        file: The file.
        option: Option of the command line that chooses another file.

    Raises:
        UserError: If the block raises an ``OSError``.
    """
    with _explained(str(file), f"file with {option}"):
        yield


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Puts a file or a folder in its place in one step, once all of it is on the disk.

    If the process is killed meanwhile, or the block raises, the earlier content stays. A device or a pipe, such as
    ``/dev/stdout``, is written directly.

    Args:
        target: Path of the file or folder; the folder around it is made. A symbolic link is followed, and stays one.

    Yields:
        A path beside the target, at which the block writes the file, or makes the folder and fills it.
    """
    if target.exists() and not target.is_file() and not target.is_dir():
        yield target
        return
    target = target.resolve()
    partial, earlier = parts_of(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove(partial)
    _bring_back(earlier, target)
    try:
        yield partial
        for path in [partial, *partial.rglob("*")]:
            _sync(path)
        # Only a folder may replace a folder: otherwise the target stays as it is. It is moved, as a process that is
        # killed while it deletes would leave the half of it.
        if partial.is_dir() and target.exists():
            target.replace(earlier)
        partial.replace(target)
        _sync(target.parent)  # without this, a crash of the machine may undo the rename
    finally:
        with contextlib.suppress(OSError):
            _bring_back(earlier, target)
            _remove(partial)


def parts_of(target: Path) -> tuple[Path, Path]:
    """Returns the path at which :func:`replacing` has its block write, and that of a folder which it replaces.

    The names are fixed, not random, so that the next process overwrites what a killed one has left.
    """
    return target.with_name(f".{target.name}.partial"), target.with_name(f".{target.name}.earlier")


def check_name(name: str, what: str) -> None:
    """Refuses a name that is not that of one folder, and would be a path to another place.

    Args:
        name: The name.
        what: What the error calls it, for example ``--version``.

    Raises:
        UserError: If it is empty, too long, or has a separator of paths in it.
    """
    if name in ("", ".", "..") or any(sign in name for sign in "/\\\0") or len(os.fsencode(name)) > _LONGEST_NAME:
        shown = name if len(name) <= _LONGEST_NAME else f"{name[:20]}... ({len(name)} characters)"
        raise UserError(f"{what} is {shown!r}: expected the name of one folder, without / and of at most 200 bytes")


def write_text(file: Path, text: str) -> None:
    """Writes a text in UTF-8, whole or not at all."""
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8")


def read_json(file: Path, kind: type = dict) -> Any:
    """Reads a record that a run has written, as data.

    Args:
        file: The file.
        kind: What its content must be.

    Raises:
        UserError: If it is damaged, for example because it was copied by half, or has other content.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = in_one_line(error)
        raise UserError(f"{file} is damaged: expected JSON ({reason}); restore it, or move it away") from error
    if not isinstance(content, kind):
        raise UserError(f"{file} holds a {type(content).__name__}: expected a {kind.__name__}; move it away")
    return content


def write_json(file: Path, content: Any) -> None:
    """Writes JSON, whole or not at all."""
    write_text(file, json.dumps(content, indent=1))


def _bring_back(earlier: Path, target: Path) -> None:
    """Moves what was to be replaced to its place, or removes it where something else has come there."""
    if target.exists():
        _remove(earlier)
    elif earlier.exists():
        earlier.replace(target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    if os.name == "nt":  # Windows opens no folder, and syncs no file that is open for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def named_in(folder: Path, said: object, said_folder: str = "") -> Path | None:
    """Finds, in a known folder, the file that the content of another file names. It looks at no other place or address.

    Args:
        folder: Folder in which the file must lie after symbolic links are followed.
        said: Path in the content, of which only the name counts.
        said_folder: Folder of that path according to the content; the path below it then counts as the name.

    Returns:
        The file, or None if the folder has no file of that name, or only a link that leads out of it.
    """
    if not isinstance(said, str):
        return None
    path = PurePosixPath(said)
    name = path.relative_to(said_folder) if said_folder and path.is_relative_to(said_folder) else path.name
    file = folder / name
    inside = file.exists() and file != folder and file.resolve().is_relative_to(folder.resolve())
    return file if inside and ".." not in file.relative_to(folder).parts else None


def is_hub_id(name: str) -> bool:
    """Says whether a text may be an id on the Hub, such as ``uoft-cs/cifar10``."""
    return _HUB_ID.fullmatch(name) is not None


def in_mirror(hub_id: str) -> Path | None:
    """Finds the folder of a Hub id in the first mirror that has one.

    Args:
        hub_id: An id on the Hub; any other text is in no mirror.

    Returns:
        The folder, with symbolic links followed; None where no mirror has it.

    Raises:
        UserError: If a mirror is not a folder.
    """
    mirrors = [Path(mirror) for mirror in os.environ.get(MIRROR_VARIABLE, "").split(os.pathsep) if mirror]
    for mirror in mirrors:
        if not mirror.is_dir():
            raise UserError(f"{MIRROR_VARIABLE}={mirror} is not a folder: correct it, or unset it to use the Hub")
    folders = (mirror / hub_id for mirror in mirrors if is_hub_id(hub_id))
    return next((folder.resolve() for folder in folders if folder.is_dir()), None)


def model_folder(name: str, patterns: Sequence[str], option: str) -> Path:
    """Finds the folder of a pretrained model: one in a mirror, the one that is named, or a download from the Hub.

    Args:
        name: A Hub id, such as ``sentence-transformers/all-MiniLM-L6-v2``, or a folder.
        patterns: Glob patterns of the files that are needed. Nothing else is fetched from the Hub.
        option: What names the model, for the error.

    Raises:
        UserError: If there is no such folder and the Hub does not give it.
    """
    if (mirrored := in_mirror(name)) is not None:
        return mirrored
    if (folder := Path(name).expanduser()).is_dir():
        return folder
    if not is_hub_id(name):
        raise UserError(f"{option} {name!r} is no folder: give one, or a Hub id such as google-bert/bert-base-cased")
    from huggingface_hub import snapshot_download

    try:
        with without_waiting_for_hub():
            return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except (OSError, ValueError) as error:  # those of the network are OSErrors
        raise UserError(
            f"{option} {name!r} is no folder and in no mirror, and the Hub does not give it"
            f" ({(str(error) or type(error).__name__).splitlines()[0]}): set {MIRROR_VARIABLE} to a folder that holds"
            f" {name}, or give its folder"
        ) from error


@contextlib.contextmanager
def without_waiting_for_hub() -> Iterator[bool]:
    """Has a block look only in the cache of the Hub where that cannot be reached.

    Its library would ask again and again, which takes more than a minute for a data set.

    Yields:
        Whether it looks only there.
    """
    from huggingface_hub import constants

    was_offline = constants.HF_HUB_OFFLINE
    minute = int(time.monotonic() // 60)
    constants.HF_HUB_OFFLINE = was_offline or not _answers(constants.ENDPOINT, minute)
    try:
        yield constants.HF_HUB_OFFLINE
    finally:
        constants.HF_HUB_OFFLINE = was_offline


@functools.lru_cache(maxsize=1)
def _answers(address: str, minute: int) -> bool:
    """Says whether a Hub answers. Within a minute it is asked once, as each split of a data set wants to know."""
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]  # it is exported without being listed

    try:
        get_session().head(address, timeout=_HUB_SECONDS)
    except Exception:  # the library asks by one of several others, each with its own errors
        return False
    return True


@contextlib.contextmanager
def _explained(what: str, other: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {what}: {error.strerror or error}; choose another {other}") from error
