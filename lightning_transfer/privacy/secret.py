"""Keeps the secret of a private training: the seed of its batches and of its noise."""

import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import Tensor

from lightning_transfer.errors import UserError

FILE = "secret_seed"  # in the folder of the run


def new_secret(trainer: L.Trainer) -> int:
    """Draws a secret of 128 bits from the operating system, the same on all ranks."""
    secret: int = trainer.strategy.broadcast(secrets.randbits(128))
    return secret


def mark_of(secret: int) -> str:
    """Makes a mark by which a secret is known again, and which tells nothing of it."""
    return _digest(f"{secret}/mark").hex()


def read_secret(trainer: L.Trainer, mark: str) -> int:
    """Reads the secret of a run that goes on, in its own folder or that of the checkpoint, for all ranks.

    Args:
        trainer: The trainer of the run.
        mark: The mark of the secret, by the checkpoint.

    Raises:
        UserError: If it is not there.
    """
    folder, checkpoint = folder_of(trainer), Path(trainer.ckpt_path or "")
    files = [place / FILE for place in (folder, checkpoint.parent, checkpoint.parent.parent)]
    written = [file.read_text() for file in files if trainer.is_global_zero and file.is_file()]
    found = next((text for text in written if text.isdecimal() and mark_of(int(text)) == mark), None)
    found = trainer.strategy.broadcast(found)
    if found is None:
        raise UserError(
            f"{files[0]} is missing, damaged or of another run: expected the secret of the run, by which a private"
            " training goes on with the same batches and noise; bring it back, or start anew with --init_from, whose"
            " epsilon adds to that of this run"
        )
    return int(found)


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


def seed_of_draws(secret: int, *place: int) -> int:
    """Makes the seed of what the network draws in a step, such as its dropout: nobody can tell what was drawn.

    Args:
        secret: That of the run.
        place: Numbers that tell the steps and the processes apart.
    """
    return int.from_bytes(_digest(f"{secret}/draws/{place}")[:8], "little", signed=True)


def noise_generator(secret: int, step: int, sums: Sequence[Tensor], world_size: int) -> np.random.Generator:
    """Makes the generator of a step's noise, with a key of 128 bits, the same on all ranks.

    Torch's own generator on a CPU has seeds of 32 bits, which can all be tried. The key depends on each bit of the
    sums. A step that is repeated after a stop has the same noise on the same sums. Two different sums never have the
    same noise, whose difference would show them bare.

    Args:
        secret: That of the run.
        step: The number of the step.
        sums: What the noise is for.
        world_size: The number of processes.
    """
    digest = _digest(f"{secret}/{step}/", *(total.cpu().numpy().tobytes() for total in sums))
    key = torch.frombuffer(bytearray(digest[:16]), dtype=torch.int64).to(sums[0].device)
    if world_size > 1:
        torch.distributed.broadcast(key, 0)
    return np.random.Generator(np.random.Philox(key=key.cpu().numpy().view(np.uint64)))


def _digest(text: str, *content: bytes) -> bytes:
    digest = hashlib.sha256(text.encode())
    for part in content:
        digest.update(part)
    return digest.digest()
