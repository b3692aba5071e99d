"""Where a run starts."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from lightning_transfer.cluster.launchers import is_restart
from lightning_transfer.errors import UserError


def start_of_fit(ckpt_path: str | None, experiment: Path, version: str | None) -> str | None:
    """Decides where a fit starts: ``last`` is its own last checkpoint, if there is one yet.

    A job that SLURM or torchrun has started again goes on from there unasked, where its run has a name.

    Args:
        ckpt_path: As given: ``last``, a file, or None.
        experiment: The folder of the experiment's runs.
        version: The run's name, if it was given.

    Raises:
        UserError: For ``last`` without a name of the run, and a start from nothing under the name of a run that has a
            checkpoint or a record, which would be lost.
    """
    if version is None:
        if ckpt_path == "last":
            raise UserError("--ckpt_path last goes on with a run: name it by --version")
        return ckpt_path
    run = experiment / version
    last = run / "checkpoints" / "last.ckpt"
    if ckpt_path == "last" or (ckpt_path is None and is_restart()):
        return str(last) if last.exists() else None
    if ckpt_path is None and (last.exists() or (run / "results.json").exists()):
        raise UserError(f"{run} holds a run already: give another --version, or go on with it by --ckpt_path last")
    return ckpt_path


def read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """Reads a checkpoint, whose tensors stay in the file; nothing of a folder, as of a strategy that saves in parts.

    Raises:
        UserError: For a path that does not exist, a file that ``torch.save`` has not written, and weights alone.
    """
    if not checkpoint.exists():
        raise UserError(f"checkpoint '{checkpoint}' does not exist: expected a file, or for fit also last")
    if checkpoint.is_dir():
        return {}
    try:
        state = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, UnpicklingError) as error:  # of a file of another kind, and of one that holds code
        raise UserError(f"{checkpoint} is no checkpoint: expected a file that a run has saved, as best.ckpt") from error
    if not isinstance(state, dict) or "pytorch-lightning_version" not in state:
        raise UserError(f"{checkpoint} is not the checkpoint of a run: if it holds weights, start by --init_from")
    return state
