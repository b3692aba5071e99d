"""Writes the command that repeats a run in a folder of its own, and the one that goes on where a run stopped."""

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from lightning_transfer.cli.resuming import RESUME
from lightning_transfer.cli.trainer import Trainer
from lightning_transfer.cluster.signals import GO_ON
from lightning_transfer.run.reading import LAST

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
def says_how_to_go_on(trainer: Trainer, arguments: Sequence[str] | None) -> Iterator[None]:
    """Notes the command that goes on from the last checkpoint, where a training is asked to stop or fails.

    Args:
        trainer: The trainer of the run.
        arguments: The arguments of the run's command; None where the run was started without a command.
    """
    folder = Path(trainer.run_folder or "nowhere")
    last = folder / "checkpoints" / LAST
    before = _change_of(last)
    try:
        yield
    except BaseException as error:
        is_there = last.is_file() and (folder / "config.yaml").is_file()
        if arguments is not None and is_there and trainer.is_global_zero:
            line = f"{GO_ON}{shlex.join([PROGRAM, 'fit', RESUME, str(folder)])}"
            if not isinstance(error, Exception):
                error.add_note(line)
            elif _change_of(last) != before:  # what failed at once would fail at once again
                error.add_note(f"{last} was saved before that; {line}")
        raise


def _change_of(file: Path) -> int | None:
    return file.stat().st_mtime_ns if file.is_file() else None


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
