"""Keeps checkpoints plain data, with every strategy and every plugin that writes and reads them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.cloud_io import _is_local_file_protocol
from lightning.pytorch.strategies import Strategy

from lightning_transfer.run.plain_types import plain
from lightning_transfer.run.reading import read_checkpoint


def guard(strategy: Strategy) -> None:
    """Has a strategy write plain types, read nothing but data, and delete only beside what it has written.

    All checkpoints of Lightning go through these three methods of the strategy, whoever asks for them. Some strategies
    read checkpoints without the plugin for them, and would run code in them.

    Args:
        strategy: The strategy of one trainer. Its methods are replaced.
    """
    save, load, remove = strategy.save_checkpoint, strategy.load_checkpoint, strategy.remove_checkpoint
    written: set[str] = set()

    def save_plain(checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        save(plain(checkpoint), filepath, storage_options)
        written.add(_place(filepath))

    def load_data(checkpoint_path: str | Path, weights_only: bool | None = None) -> Mapping[str, Any]:
        if _place(checkpoint_path) not in written:
            read_checkpoint(checkpoint_path)
        return load(checkpoint_path, weights_only=True)

    def remove_own(filepath: str | Path) -> None:
        folder = _place(filepath).rpartition("/")[0]
        if any(path.rpartition("/")[0] == folder for path in written):
            remove(filepath)

    strategy.save_checkpoint = save_plain  # type: ignore[method-assign]
    strategy.load_checkpoint = load_data  # type: ignore[method-assign, assignment]
    strategy.remove_checkpoint = remove_own  # type: ignore[method-assign]


def _place(path: str | Path) -> str:
    """Returns the one name of a place, without symbolic links."""
    return str(Path(path).resolve()) if _is_local_file_protocol(path) else str(path)
