"""Decides which folder a run is written to, and from which checkpoint it starts."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_transfer.cluster.launchers import is_restart
from lightning_transfer.errors import UserError
from lightning_transfer.run.ownership import new_version, owned


@contextlib.contextmanager
def folder_of_run(trainer: L.Trainer, experiment: Path, version: str | None) -> Iterator[Path]:
    """Gives a run its folder as long as the context lasts, whatever its loggers are.

    Checkpoints go there, unless a config names another folder. The first rank owns the folder. The other ranks get its
    name from the first by a broadcast, where they need it.

    Args:
        trainer: The trainer that will fit.
        experiment: The folder of the experiment's runs, which exists.
        version: The run's name; the next number if None.

    Raises:
        UserError: If the folder belongs to another living process.
    """
    with contextlib.ExitStack() as stack:
        folder = experiment / (version or "")
        if trainer.is_global_zero:
            folder = experiment / (version or new_version(experiment))
            stack.enter_context(owned(folder))
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(folder / "checkpoints")
        yield folder


def start_of_fit(ckpt_path: str | None, experiment: Path, version: str | None) -> str | None:
    """Decides where a fit starts: ``last`` is its own last checkpoint, if there is one yet.

    If SLURM or torchrun has started the job again, a run that has a name goes on from there without ``last``.

    Args:
        ckpt_path: The argument as given: ``last``, a file, or None.
        experiment: The folder of the experiment's runs.
        version: The run's name, if it was given.

    Returns:
        The checkpoint to start from; None for a start from the beginning.

    Raises:
        UserError: If ``last`` is given without a name of the run. Also if a start from nothing, or from another run,
            would overwrite the checkpoint or the record of a run of that name.
    """
    if version is None:
        if ckpt_path == "last":
            raise UserError("--ckpt_path last goes on with a run: name it by --version")
        return ckpt_path
    run = experiment / version
    last = run / "checkpoints" / "last.ckpt"
    if ckpt_path == "last" or (ckpt_path is None and is_restart()):
        return str(last) if last.exists() else None
    is_own = ckpt_path is not None and Path(ckpt_path).resolve().is_relative_to(run.resolve())
    if not is_own and (last.exists() or (run / "results.json").exists()):
        raise UserError(f"{run} holds a run already: give another --version, or go on with it by --ckpt_path last")
    return ckpt_path


def read_checkpoint(checkpoint: str | Path) -> dict[str, Any]:
    """Reads a checkpoint as data alone. Its tensors stay in the file.

    Raises:
        UserError: If the checkpoint is an address, a path that does not exist, a folder of parts or weights alone. Also
            if ``torch.save`` has not written the file, or it holds code.
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
        state = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, UnpicklingError) as error:  # for a file of another kind, and for one that holds code
        raise UserError(f"{checkpoint} is no checkpoint: expected a file that a run has saved, as best.ckpt") from error
    if not isinstance(state, dict) or "pytorch-lightning_version" not in state:
        raise UserError(f"{checkpoint} is not the checkpoint of a run: if it holds weights, start by --init_from")
    return state
