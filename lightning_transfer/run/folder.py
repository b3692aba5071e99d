"""Where a run starts, and the folder that it is written to."""

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
    """A context in which a run has its folder, whatever its loggers are.

    Checkpoints go there, unless a config says where. The first rank owns the folder. The others take its name from the
    first where they need it, by a broadcast.

    Args:
        trainer: Will fit.
        experiment: The folder of the experiment's runs, which exists.
        version: The run's name; the next number if None.

    Raises:
        UserError: Where the folder belongs to another living process.
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

    A job that SLURM or torchrun has started again goes on from there unasked, where its run has a name.

    Args:
        ckpt_path: As given: ``last``, a file, or None.
        experiment: The folder of the experiment's runs.
        version: The run's name, if it was given.

    Raises:
        UserError: For ``last`` without a name of the run, and a start from nothing, or from another run, under the name
            of a run that has a checkpoint or a record, which would be lost.
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
    """Reads a checkpoint as data alone; its tensors stay in the file.

    Raises:
        UserError: For an address, a path that does not exist, a folder of parts, a file that ``torch.save`` has not
            written or that holds code, and weights alone.
    """
    if not _is_local_file_protocol(checkpoint):
        raise UserError(f"checkpoint '{checkpoint}' is an address: fetch it, and give the file")
    checkpoint = Path(checkpoint)
    if not checkpoint.exists():
        raise UserError(f"checkpoint '{checkpoint}' does not exist: expected a file, or for fit also last")
    if checkpoint.is_dir():  # its parts hold code
        raise UserError(
            f"checkpoint '{checkpoint}' is a folder of parts: join them by `fabric consolidate {checkpoint}`"
        )
    try:
        state = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, UnpicklingError) as error:  # of a file of another kind, and of one that holds code
        raise UserError(f"{checkpoint} is no checkpoint: expected a file that a run has saved, as best.ckpt") from error
    if not isinstance(state, dict) or "pytorch-lightning_version" not in state:
        raise UserError(f"{checkpoint} is not the checkpoint of a run: if it holds weights, start by --init_from")
    return state
