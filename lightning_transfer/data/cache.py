"""Keeps arrays that are computed once and memory-mapped later, such as decoded images, and a few measured numbers.

An entry is a folder of ``.npy`` files and a manifest with their sizes and checksums. An entry appears only when it is
complete. A lock lets one process build it while others wait.
"""

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from lightning_transfer.errors import UserError
from lightning_transfer.files import parts_of, read_json, replacing, write_json

CACHE_VARIABLE = "LIGHTNING_TRANSFER_CACHE"
_MANIFEST = "manifest.json"
_BLOCK_BYTES = 1 << 24
_HEADER_BYTES = 1 << 12  # more than the head of a ``.npy`` file

Arrays = dict[str, np.ndarray]


def cache_root() -> Path:
    """Returns the folder of the cache: ``$LIGHTNING_TRANSFER_CACHE``, else ``~/.cache/lightning-transfer``.

    Raises:
        UserError: If neither is known, as there is no home.
    """
    given = os.environ.get(CACHE_VARIABLE)
    try:
        return Path(given) if given else Path.home() / ".cache" / "lightning-transfer"
    except RuntimeError as error:
        raise UserError(f"the cache needs a folder, and there is no home: set {CACHE_VARIABLE} to one") from error


def load_or_build(kind: str, key: Mapping[str, object], build: Callable[[Path], None]) -> Arrays:
    """Returns the arrays of an entry, and builds it first if it is missing or damaged.

    Args:
        kind: Kind of the entry, for example ``images``, which names the folder under the root of the cache.
        key: Everything the arrays depend on (JSON types): the fingerprint of the data, sizes, the layout's version.
        build: Function that writes the ``.npy`` files of the entry into the folder that it is given, by :func:`save`
            or :func:`rows_file`. It raises an ``OSError`` for nothing but the writing.

    Returns:
        The arrays by file name without suffix, memory-mapped copy-on-write: writing to them never reaches the disk.

    Raises:
        UserError: If the cache cannot be written, or has no room.
    """
    folder = cache_root() / kind / _digest(key)
    if not _is_valid(folder):
        with _explained(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not _is_valid(folder):  # another process may have built it while this one waited
                    _remove_parts_of_killed_builds(folder)
                    _build(folder, key, build)
    return _mapped(folder)


def load_or_measure(
    kind: str, key: Mapping[str, object], names: Iterable[str], measure: Callable[[], dict[str, float]]
) -> dict[str, float]:
    """Returns numbers that were measured once, and measures them first if they are missing or damaged.

    Args:
        kind: Kind of the numbers, which names the folder under the root of the cache.
        key: Everything the numbers depend on (JSON types).
        names: The names of the numbers.
        measure: Function that measures them. It raises no ``OSError``. Other processes wait for what it finds.

    Returns:
        The numbers by name, finite and above 0.

    Raises:
        UserError: If the cache cannot be written, or has no room.
    """
    file = cache_root() / kind / f"{_digest(key)}.json"
    with _explained(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            if (numbers := _numbers(file, names)) is None:
                numbers = measure()
                write_json(file, numbers)
    return numbers


def entries(kind: str) -> Iterator[Arrays]:
    """Gives the arrays of each whole entry of a kind, as :func:`load_or_build` does; damaged ones are passed over.

    Args:
        kind: Kind of the entries.
    """
    for manifest in sorted((cache_root() / kind).glob(f"[!.]*/{_MANIFEST}")):
        if _is_valid(manifest.parent):
            yield _mapped(manifest.parent)


def save(file: Path, array: np.ndarray) -> None:
    """Writes an array of an entry, once there is room for all of it.

    Args:
        file: The ``.npy`` file.
        array: The array.
    """
    with file.open("wb") as stream:
        _reserve(stream, array.nbytes + _HEADER_BYTES)
        stream.write(_header(array.shape, array.dtype))
        stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        stream.truncate()


@contextlib.contextmanager
def rows_file(file: Path, rows: int, row_shape: tuple[int, ...], dtype: type) -> Iterator[Callable[[np.ndarray], None]]:
    """Writes an array of an entry row by row. Room for all of it is there before the first row is asked for.

    A memory map would end the process by a bus error on a full disk, where a write can say so.

    Args:
        file: The ``.npy`` file.
        rows: The most rows that will be written; the array has as many as were.
        row_shape: Shape of a row.
        dtype: Type of the values.

    Yields:
        A function that writes the next row.
    """
    written = 0
    row_type = np.dtype((dtype, row_shape))
    with file.open("wb") as stream:
        _reserve(stream, rows * row_type.itemsize + _HEADER_BYTES)
        stream.write(_header((rows, *row_shape), row_type.base))

        def write(row: np.ndarray) -> None:
            nonlocal written
            stream.write(np.ascontiguousarray(row, dtype).tobytes())
            written += 1

        yield write
        stream.truncate()
        stream.seek(0)
        stream.write(_header((written, *row_shape), row_type.base))


def _digest(key: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]


def _numbers(file: Path, names: Iterable[str]) -> dict[str, float] | None:
    """Reads numbers by name; None where one is missing, or is none that was measured."""
    try:
        content = read_json(file)
    except (OSError, UserError):
        return None
    numbers = {name: content.get(name) for name in names}
    return numbers if all(isinstance(n, float) and 0 < n < math.inf for n in numbers.values()) else None


def _mapped(folder: Path) -> Arrays:
    return {file.stem: np.load(file, mmap_mode="c") for file in sorted(folder.glob("*.npy"))}


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """Makes the head of a ``.npy`` file, whose size is the same for any number of rows."""
    head = io.BytesIO()
    facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, facts)
    return head.getvalue()


def _reserve(stream: BinaryIO, size: int) -> None:
    """Takes the room of a file, which the writing cuts to its size; raises an ``OSError`` if the disk has less."""
    try:
        os.posix_fallocate(stream.fileno(), 0, size)
        return
    except AttributeError:  # a system without it
        pass
    except OSError as error:
        if error.errno in (errno.EDQUOT, errno.EFBIG):
            raise
    # There is too little room, or a file system that cannot reserve any.
    free = shutil.disk_usage(Path(stream.name).parent).free
    if free < size:
        raise OSError(errno.ENOSPC, f"it needs {size / 2**20:,.1f} MiB, and {free / 2**20:,.1f} MiB are free")


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the cache {folder} cannot be written: {error.strerror or error}; make room, or set {CACHE_VARIABLE} to"
            " another folder"
        ) from error


def _remove_parts_of_killed_builds(folder: Path) -> None:
    """Frees the room of builds of other entries that nobody works at any more."""
    for lock in folder.parent.glob("*.lock"):
        for part in parts_of(lock.with_suffix("")):
            if part.exists() and part not in parts_of(folder):
                with contextlib.suppress(OSError, Timeout), FileLock(lock, timeout=0):
                    shutil.rmtree(part)


def _build(folder: Path, key: Mapping[str, object], build: Callable[[Path], None]) -> None:
    if folder.exists():
        print(f"lightning-transfer: the cache {folder} is damaged, building it again", file=sys.stderr)
    with replacing(folder) as partial:
        partial.mkdir()
        build(partial)
        files = {file.name: {"bytes": file.stat().st_size, "crc32": _crc32(file)} for file in partial.glob("*.npy")}
        write_json(partial / _MANIFEST, {"key": dict(key), "files": files})


def _is_valid(folder: Path) -> bool:
    try:
        files = read_json(folder / _MANIFEST)["files"]
        return files.keys() == {file.name for file in folder.glob("*.npy")} and all(
            (folder / name).stat().st_size == facts["bytes"] and _crc32(folder / name) == facts["crc32"]
            for name, facts in files.items()
        )
    except (AttributeError, KeyError, OSError, TypeError, UserError):
        return False


def _crc32(file: Path) -> int:
    checksum = 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return checksum
