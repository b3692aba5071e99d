"""Keeps the secret of a private training: the seed of its batches and of its noise."""

import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from lightning_transfer.errors import UserError

FILE = "secret_seed"  # in the folder of the run


def new_secret(trainer: L.Trainer) -> int:
    """Draws a secret of 128 bits from the operating system, the same on all ranks."""
    secret: int = trainer.strategy.broadcast(secrets.randbits(128))
    return secret


def read_secret(trainer: L.Trainer) -> int:
    """Reads the secret of a run that goes on, in its own folder or that of the checkpoint, for all ranks.

    Raises:
        UserError: If it is not there.
    """
    folder, checkpoint = folder_of(trainer), Path(trainer.ckpt_path or "")
    files = [place / FILE for place in (folder, checkpoint.parent, checkpoint.parent.parent)]
    found = next((file.read_text() for file in files if trainer.is_global_zero and file.is_file()), None)
    found = trainer.strategy.broadcast(found)
    try:
        return int(found or "")
    except ValueError as error:
        raise UserError(
            f"{files[0]} is missing or damaged: expected the secret of the run, by which a private training goes on"
            " with the same batches and noise; bring it back, or start anew with --init_from, which adds a whole ε"
        ) from error


def write_secret(trainer: L.Trainer, secret: int) -> None:
    """Writes the secret into the folder of the run, for the owner's eyes alone."""
    folder = folder_of(trainer)
    if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).unlink(missing_ok=True)
        descriptor = os.open(folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(str(secret))


def folder_of(trainer: L.Trainer) -> Path:
    """Returns the folder of the run; all ranks must ask for it together."""
    return Path(trainer.log_dir or trainer.default_root_dir)


def noise_generator(secret: int, step: int, sums: Sequence[Tensor], world_size: int) -> torch.Generator:
    """Makes the generator of a step's noise, the same on all ranks.

    Its seed depends on the sums too. A step that is repeated after a stop has the same noise on the same sums. Two
    different sums never have the same noise, whose difference would show them bare.

    Args:
        secret: That of the run.
        step: The number of the step.
        sums: What the noise is for.
        world_size: The number of processes.
    """
    content = torch.stack([total.double().sum() for total in sums]).cpu().numpy().tobytes()
    digest = hashlib.sha256(f"{secret}/{step}/".encode() + content).digest()
    seed = torch.tensor(int.from_bytes(digest[:8], "little", signed=True), device=sums[0].device)
    if world_size > 1:
        torch.distributed.broadcast(seed, 0)
    return torch.Generator(sums[0].device).manual_seed(int(seed))
