"""Fingerprints of files: hashes of their content, computed once for each state that the file system knows of.

Time stamps alone are not enough: ``rsync -a`` and ``cp -p`` replace a file and keep its time of modification. But no
program can set the time at which the file system last changed a file's entry (ctime). Together with the number of the
entry (inode), the size and the time of modification, it tells whether the content may be another.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from lightning_transfer.data import cache

_LAYOUT = 1


def content_fingerprint(files: Iterable[Path], root: Path | None = None) -> str:
    """Returns a hash of the names and the content of files, which follows a copy of them to another machine.

    Files are read where none of their state is known yet. Otherwise only their entries are looked at.

    Args:
        files: The files, in order. Symbolic links are followed.
        root: The folder whose relative paths are the names of the files; their last parts where it is not given.

    Returns:
        64 hexadecimal digits.

    Raises:
        OSError: For a file that cannot be read.
    """
    files = list(files)
    names = [file.relative_to(root).as_posix() if root else file.name for file in files]
    key = {"state": state_of(files), "names": _digest(names), "layout": _LAYOUT}

    def build(folder: Path) -> None:
        digest = hashlib.sha256()
        for file, name in zip(files, names, strict=True):
            with file.open("rb") as stream:
                digest.update(repr((name, hashlib.file_digest(stream, "sha256").hexdigest())).encode())
        np.save(folder / "sha256.npy", np.frombuffer(digest.digest(), np.uint8))

    return cache.load_or_build("fingerprints", key, build)["sha256"].tobytes().hex()


def state_of(files: Iterable[Path]) -> str:
    """Returns a hash of what the file system says of files, without reading them."""
    found = ((str(file), file.stat()) for file in files)
    return _digest((path, state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino) for path, state in found)


def _digest(items: Iterable[object]) -> str:
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr(item).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
