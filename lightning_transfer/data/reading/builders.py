"""Loads local files by a builder of the library ``datasets``, whose own cache goes by time stamps alone."""

from typing import Any

import datasets

from lightning_transfer.data import cache


def load_files(path: str, fingerprint: str, **arguments: Any) -> datasets.Dataset:
    """Loads a split from local files, anew if their fingerprint is another.

    Args:
        path: A folder, or the name of a builder such as ``parquet``.
        fingerprint: Text that changes when the files do, up to 64 hexadecimal digits. The data set takes it over.
        arguments: Arguments of ``datasets.load_dataset``.
    """
    folder = cache.cache_root() / "datasets" / fingerprint
    loaded = datasets.load_dataset(path, cache_dir=str(folder), **arguments)
    return datasets.Dataset(loaded.data, info=loaded.info, split=loaded.split, fingerprint=fingerprint)
