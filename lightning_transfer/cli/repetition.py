"""Writes the command that repeats a run in a folder of its own, and the one that goes on where a run stopped."""

import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import lightning as L

from lightning_transfer.run.last_checkpoint import LastCheckpoint

PROGRAM = "lightning-transfer"


def own_options(experiment: Path, version: str | None, ckpt_path: str | None) -> list[str]:
    """Finds the options that belong to one run alone: its name, and its own checkpoint that it goes on from.

    Args:
        experiment: The folder of the experiment's runs.
        version: The run's name, if it was given.
        ckpt_path: The checkpoint that the run starts from, as given.
    """
    if version is None:
        return []
    run = (experiment / version).resolve()
    goes_on = ckpt_path is not None and (ckpt_path == "last" or Path(ckpt_path).resolve().is_relative_to(run))
    return ["version", "ckpt_path"] if goes_on else ["version"]


@contextlib.contextmanager
def says_how_to_go_on(trainer: L.Trainer, arguments: Sequence[str] | None) -> Iterator[None]:
    """Prints the command that goes on from the last checkpoint, in one line, where a training is asked to stop.

    Args:
        trainer: The trainer of the run.
        arguments: The arguments of the run's command; None where the run was started without a command.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        last = next((one for one in trainer.checkpoint_callbacks if isinstance(one, LastCheckpoint)), None)
        if arguments is not None and last is not None and Path(last.path).is_file() and trainer.is_global_zero:
            command = shlex.join([PROGRAM, *arguments, "--ckpt_path", last.path])
            print(f"go on: {command}", file=sys.stderr, flush=True)
        raise


def repetition(arguments: Sequence[str] | None, own: Sequence[str]) -> str | None:
    """Writes the command of a run without the options that belong to that run alone.

    Args:
        arguments: The arguments of the run's command; None where the run was started without a command.
        own: Names of those options. They are set to null, as a config file may give them too.
    """
    if arguments is None:
        return None
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        name, _, value = word.removeprefix("--").partition("=")
        if not (word.startswith("--") and name in own):
            kept.append(word)
            continue
        if not value:
            next(words, None)
    return shlex.join([PROGRAM, *kept, *nulls(own)])


def nulls(names: Sequence[str]) -> list[str]:
    """Returns the flags that set options of a config file to null."""
    return [word for name in names for word in (f"--{name}", "null")]
