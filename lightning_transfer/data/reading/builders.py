"""Loads local files by a builder of the library ``datasets``, whose own cache goes by time stamps alone."""

import errno
import hashlib
from typing import Any

import datasets
from datasets.exceptions import DatasetGenerationError
from datasets.table import CastError

from lightning_transfer.data import cache


def load_files(path: str, content: str, split: str, **arguments: Any) -> datasets.Dataset:
    """Loads a split from local files, anew if their content is another.

    Args:
        path: A folder, or the name of a builder such as ``parquet``.
        content: The fingerprint of the files, hexadecimal.
        split: The name of the split.
        arguments: Further arguments of ``datasets.load_dataset``.

    Returns:
        The rows. Their fingerprint depends on the content of the files, and not on their place or age.
    """
    folder = cache.cache_root() / "datasets" / content
    loaded = datasets.load_dataset(path, cache_dir=str(folder), split=split, **arguments)
    fingerprint = hashlib.sha256(f"{content}/{split}".encode()).hexdigest()
    return datasets.Dataset(loaded.data, info=loaded.info, split=loaded.split, fingerprint=fingerprint)


def reason_of(error: BaseException) -> str:
    """Words the error of a builder in one line."""
    if isinstance(error, DatasetGenerationError) and (cause := error.__cause__ or error.__context__):
        return reason_of(cause)  # the error's own message is only "An error occurred"
    if isinstance(error, CastError):  # its own message is only "Couldn't cast"
        return f"its files must have the same columns, but {error.details()}"
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) or "disk space" in reason:
        reason += f"; make room, or set {cache.CACHE_VARIABLE}, or HF_HOME for data of the Hub, to another folder"
    return reason
