"""Decides which folder a run is written to, and from which checkpoint it starts."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_transfer.cluster.launchers import is_restart
from lightning_transfer.errors import UserError
from lightning_transfer.run.ownership import new_version, owned
from lightning_transfer.run.reading import LAST, newest_whole
from lightning_transfer.transfer.damage import damage_of


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

    If SLURM or torchrun has started the job again, a run that has a name goes on from there without ``last``. Where a
    file ``last.ckpt`` is damaged, the newest whole checkpoint beside it takes its place.

    Args:
        ckpt_path: The argument as given: ``last``, a file, or None.
        experiment: The folder of the experiment's runs.
        version: The run's name, if it was given.

    Returns:
        The checkpoint to start from; None for a start from the beginning.

    Raises:
        UserError: If ``last`` is given without a name of the run, or no checkpoint is whole. Also if a start from
            nothing, or from another run, would overwrite the checkpoint or the record of a run of that name.
    """
    if version is None:
        if ckpt_path == "last":
            raise UserError("--ckpt_path last goes on with a run: name it by --version")
        return _whole(ckpt_path)
    run = experiment / version
    last = run / "checkpoints" / LAST
    if ckpt_path == "last" or (ckpt_path is None and is_restart()):
        newest = newest_whole(last.parent)
        return None if newest is None else str(newest)
    is_own = ckpt_path is not None and Path(ckpt_path).resolve().is_relative_to(run.resolve())
    if not is_own and (last.exists() or (run / "results.json").exists()):
        raise UserError(f"{run} holds a run already: give another --version, or go on with it by --ckpt_path last")
    return _whole(ckpt_path)


def _whole(ckpt_path: str | None) -> str | None:
    file = Path(ckpt_path or "")
    is_damaged = file.name == LAST and file.is_file() and damage_of(file) is not None
    return str(newest_whole(file.parent)) if is_damaged else ckpt_path
