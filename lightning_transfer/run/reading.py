"""Reads checkpoints as data alone, and finds the newest whole one of a run."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol

from lightning_transfer.errors import UserError
from lightning_transfer.transfer.damage import damage_of

LAST = "last.ckpt"
_FOR_ALL = ("state_dict", "epoch", "global_step")
_FOR_TRAINING = ("loops", "callbacks", "optimizer_states", "lr_schedulers")


def read_checkpoint(checkpoint: str | Path, is_trained: bool = False) -> dict[str, Any]:
    """Reads a checkpoint as data alone. Its tensors stay in the file.

    Args:
        checkpoint: The file.
        is_trained: Whether a training is to go on from it.

    Raises:
        UserError: If the checkpoint is an address, a path that does not exist, a folder of parts or weights alone. Also
            if ``torch.save`` has not written the file, it is damaged, it holds code, or a part is missing.
    """
    if not _is_local_file_protocol(checkpoint):
        raise UserError(f"checkpoint '{checkpoint}' is an address: fetch it, and give the file")
    checkpoint = Path(checkpoint)
    if not checkpoint.exists():
        raise UserError(f"checkpoint '{checkpoint}' does not exist: expected a file, or for fit also last")
    if checkpoint.is_dir():  # its parts hold code
        raise UserError(
            f"{checkpoint} is a folder: expected a file; `fabric consolidate {checkpoint}` joins a checkpoint in parts"
        )
    try:
        damage = damage_of(checkpoint)
    except OSError as error:
        raise UserError(f"{checkpoint} cannot be read: {error.strerror or error}; give another checkpoint") from error
    if damage is not None:
        newest = _newest_of(checkpoint.parent)
        way_out = f"the newest whole one beside it is {newest}" if newest else "no other one beside it is whole"
        raise UserError(f"{checkpoint} is damaged: it {damage}; {way_out}")
    return _read(checkpoint, is_trained)


def _read(checkpoint: Path, is_trained: bool) -> dict[str, Any]:
    try:
        state = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, UnpicklingError) as error:  # for a file of another kind, and for one that holds code
        raise UserError(f"{checkpoint} is no checkpoint: expected a file that a run has saved, as best.ckpt") from error
    if not isinstance(state, dict) or "pytorch-lightning_version" not in state:
        raise UserError(f"{checkpoint} is not the checkpoint of a run: if it holds weights, start by --init_from")
    for part in (*_FOR_ALL, *(_FOR_TRAINING if is_trained else ())):
        if part not in state:
            way_out = "if it holds weights, start by --init_from" if is_trained else "give one that a run has saved"
            raise UserError(f"{checkpoint} has no {part}: expected a whole checkpoint of a run; {way_out}")
    if not isinstance(state["state_dict"], Mapping):
        raise UserError(f"{checkpoint} has no weights by name as state_dict: give one that a run has saved")
    return state


def newest_whole(folder: Path) -> Path | None:
    """Finds the checkpoint that a run goes on from: its last, or the newest other one where that is damaged or missing.

    Args:
        folder: Folder of the run's checkpoints.

    Returns:
        The file; None where there is none to go on from, and none that is damaged.

    Raises:
        UserError: If the last one is damaged, and no other can be trained on.
    """
    last = folder / LAST
    if last.exists() and damage_of(last) is None:
        return last
    newest = _newest_of(folder)
    if newest is None and last.exists():
        raise UserError(
            f"{last} is damaged: it {damage_of(last)}, and no other checkpoint beside it can go on: restore one, or"
            " move it away to start from the beginning"
        )
    return newest


def why_not_last(checkpoint: Path) -> str | None:
    """Says in a line why a run goes on from another checkpoint than its last; None if it goes on from that."""
    last = checkpoint.with_name(LAST)
    if checkpoint == last:
        return None
    reason = f"is damaged, it {damage_of(last)}" if last.exists() else "is not there"
    step = _read(checkpoint, is_trained=True)["global_step"]
    return f"{last} {reason}: going on from {checkpoint}, of step {step}"


def _newest_of(folder: Path) -> Path | None:
    """Finds the whole checkpoint of the most steps; the last one before another of as many."""
    steps: dict[Path, tuple[int, bool]] = {}
    for file in sorted(folder.glob("*.ckpt")):
        try:
            if file.is_file() and damage_of(file) is None:
                steps[file] = (int(_read(file, is_trained=True)["global_step"]), file.name == LAST)
        except (OSError, TypeError, ValueError):  # not to be read, or no checkpoint of a run
            continue
    return max(steps, key=steps.__getitem__, default=None)
