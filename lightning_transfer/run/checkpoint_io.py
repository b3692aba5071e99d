"""Writes checkpoints that are whole or do not exist, whatever happens meanwhile."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol

from lightning_transfer.errors import UserError
from lightning_transfer.files import replacing


class DurableCheckpointIO(TorchCheckpointIO):
    """Replaces a checkpoint in one step, once all of the new one is on the disk.

    Lightning writes to a temporary file elsewhere and moves it. If that is on another file system, a killed process
    leaves half a file under the final name. Remote paths (``s3://...``) are left to Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint.

        Args:
            checkpoint: Anything that ``torch.save`` takes.
            path: The file, whose folder is made.
            storage_options: Not supported, as in Lightning.

        Raises:
            UserError: If the file system refuses, for example because it is full. An earlier checkpoint of this name
                is then still there.
        """
        if storage_options is not None or not _is_local_file_protocol(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            with replacing(Path(path)) as partial, partial.open("wb") as stream:
                torch.save(checkpoint, stream)
        except (OSError, RuntimeError) as error:
            refusal = error if isinstance(error, OSError) else error.__context__  # torch's writer wraps it
            if not isinstance(refusal, OSError):
                raise
            raise UserError(
                f"cannot write checkpoint {path}: {refusal.strerror}; an earlier one of this name is untouched"
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint as data alone, whatever ``weights_only`` is; see ``torch.load``."""
        return super().load_checkpoint(path, map_location, weights_only=True)
