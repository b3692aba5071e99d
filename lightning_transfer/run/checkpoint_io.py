"""Checkpoints that are whole or not there, whatever happens while they are written."""

import contextlib
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol

from lightning_transfer.errors import UserError


class DurableCheckpointIO(TorchCheckpointIO):
    """Replaces a checkpoint in one step, once all of the new one is on the disk.

    Lightning writes to a temporary file elsewhere and moves it: where that is another file system, a killed process
    leaves half a file under the final name. Here the temporary file is in the same folder, file and folder are synced,
    and the rename is atomic. Remote paths (``s3://...``) are left to Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint.

        Args:
            checkpoint: Anything that ``torch.save`` takes.
            path: The file; its folder is made.
            storage_options: Not supported, as in Lightning.

        Raises:
            UserError: Where the file system refuses, for example because it is full; an earlier checkpoint of this
                name is then still there.
        """
        if storage_options is not None or not _is_local_file_protocol(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        # One name, not a random one: what a killed process has left is overwritten by the next.
        partial = target.with_name(f".{target.name}.partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as stream:
                torch.save(checkpoint, stream)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(target)
            _sync_folder(target.parent)
        except (OSError, RuntimeError) as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            refusal = error if isinstance(error, OSError) else error.__context__  # torch's writer wraps it
            if not isinstance(refusal, OSError):
                raise
            raise UserError(
                f"cannot write checkpoint {target}: {refusal.strerror}; an earlier one of this name is untouched"
            ) from error


def _sync_folder(folder: Path) -> None:
    # Without it a crash of the machine may undo the rename.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
