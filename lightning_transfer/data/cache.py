"""Keeps arrays that are computed once and memory-mapped later: decoded images, token ids.

An entry is a folder of ``.npy`` files and a manifest with their sizes and checksums. An entry appears only when it is
complete. A lock lets one process build it while others wait.
"""

import hashlib
import json
import os
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from filelock import FileLock

from lightning_transfer.files import replacing, write_json

CACHE_VARIABLE = "LIGHTNING_TRANSFER_CACHE"
_MANIFEST = "manifest.json"
_BLOCK_BYTES = 1 << 24

Arrays = dict[str, np.ndarray]


def cache_root() -> Path:
    """Returns the folder of the cache: ``$LIGHTNING_TRANSFER_CACHE``, else ``~/.cache/lightning-transfer``."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "lightning-transfer")


def load_or_build(kind: str, key: Mapping[str, object], build: Callable[[Path], None]) -> Arrays:
    """Returns the arrays of an entry, and builds it first if it is missing or damaged.

    Args:
        kind: Kind of the entry, for example ``images``, which names the folder under the root of the cache.
        key: Everything the arrays depend on (JSON types): the fingerprint of the data, sizes, the layout's version.
        build: Function that writes the ``.npy`` files of the entry into the folder that it is given.

    Returns:
        The arrays by file name without suffix, memory-mapped copy-on-write: writing to them never reaches the disk.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    folder = cache_root() / kind / digest
    if not _is_valid(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not _is_valid(folder):  # another process may have built it while this one waited
                _build(folder, key, build)
    return {file.stem: np.load(file, mmap_mode="c") for file in sorted(folder.glob("*.npy"))}


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
        files = json.loads((folder / _MANIFEST).read_text())["files"]
        return all(
            (folder / name).stat().st_size == facts["bytes"] and _crc32(folder / name) == facts["crc32"]
            for name, facts in files.items()
        )
    except (OSError, ValueError, KeyError):
        return False


def _crc32(file: Path) -> int:
    checksum = 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return checksum
