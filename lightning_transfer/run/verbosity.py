"""Decides what a command prints: a short account, everything, the result alone, or JSON for machines."""

import argparse
import contextlib
import json
import logging
import math
import os
import re
import stat
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

from lightning_transfer.errors import UserError

Level = Literal["normal", "verbose", "quiet", "json"]

# The options, and what the help says of each.
OPTIONS = {
    "verbose": "Prints every epoch, the layers of the model, and all that Lightning says.",
    "quiet": "Prints errors and the result only.",
    "json": "Prints one JSON object a line on standard output: epochs, then the record. Words go to standard error.",
}
# What Lightning says in every run, and what is in the columns of the epochs. --verbose shows it.
_SAYS_LITTLE = re.compile(
    r"\s*(Seed set to|(GPU|TPU|HPU|IPU) available|LOCAL_RANK:|Loading `train_dataloader` to estimate"
    r"|`Trainer.fit` stopped|Restoring states from|Restored all states|Loaded model weights|Initializing distributed"
    r"|-{20}|distributed_backend=|All distributed processes|Detected KeyboardInterrupt"
    r"|Unfreezing plan|Epoch \d+, step \d+: phase )"
)
_WARNS_OF_LITTLE = (".*is smaller than the logging interval", ".*The `srun` command is available on your system")


@dataclass
class _Output:
    """How much is printed, and where results go. Whatever else is printed goes to ``sys.stdout``."""

    level: Level = "normal"
    results: TextIO | None = None  # where sys.stdout is another
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


_output: ContextVar[_Output | None] = ContextVar("output", default=None)


def verbosity() -> Level:
    """Returns how much the command prints that runs now."""
    output = _output.get()
    return output.level if output else "normal"


@contextlib.contextmanager
def output_of_a_command() -> Iterator[None]:
    """Lets a command choose what it prints. At its end all is as before: a run of a study has its own choice.

    The same warning is printed once: a folder of data is opened for each of its splits, and each time says the same.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.showwarning = _once(warnings.showwarning)
        token = _output.set(_Output(stack=stack))
        try:
            yield
        finally:
            _output.reset(token)


def _once(show: Callable[..., None]) -> Callable[..., None]:
    """Shows a warning whose words have not been shown before."""
    shown: set[str] = set()

    def show_new(message: Warning | str, *place: Any, **more: Any) -> None:
        if str(message) not in shown:
            shown.add(str(message))
            show(message, *place, **more)

    return show_new


class VerbosityOption(argparse.Action):
    """An option that says what is printed. It is no part of a config, as no result depends on it."""

    def __init__(self, option_strings: list[str], help: str | None = None, **_: Any) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, *arguments: Any) -> None:
        """Applies the option."""
        _choose(arguments[-1].removeprefix("--"))


def add_verbosity_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--verbose``, ``--quiet`` and ``--json`` to a parser."""
    for name, words in OPTIONS.items():
        parser.add_argument(f"--{name}", action=VerbosityOption, help=words)


def _choose(level: Level) -> None:
    output = _output.get()
    if output is None or output.level == level:
        return
    if output.level != "normal":
        raise UserError(f"--{output.level} and --{level} are given: expected one of {', '.join(OPTIONS)}")
    output.level = level
    if level != "verbose":
        output.results = sys.stdout
        nowhere = output.stack.enter_context(Path(os.devnull).open("w"))  # noqa: SIM115
        output.stack.enter_context(contextlib.redirect_stdout(sys.stderr if level == "json" else nowhere))
    if level == "quiet":
        output.stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")


def hush_lightning() -> None:
    """Leaves out what Lightning says of little use, once it is imported, and has the rest go where errors go now.

    Its handlers keep the standard error of the moment of the import, which in a study is the log of the first run.
    Warnings stay, and so does what data modules say of classes and counts.
    """
    for name in [*logging.root.manager.loggerDict]:
        if name.startswith(("lightning.pytorch", "lightning.fabric")):
            logger = logging.getLogger(name)
            logger.addFilter(_is_worth_saying)
            for handler in logger.handlers:
                if type(handler) is logging.StreamHandler:  # Lightning's own, and no file of the user's
                    handler.stream = sys.stderr  # setStream would flush the old one, which may be closed
    if verbosity() != "verbose" and (output := _output.get()) is not None:
        output.stack.enter_context(warnings.catch_warnings())
        for words in _WARNS_OF_LITTLE:
            warnings.filterwarnings("ignore", message=words)


@contextlib.contextmanager
def hushed(name: str, level: int) -> Iterator[None]:
    """Leaves out all warnings in a block, and what a logger says below a level.

    Args:
        name: The name of the logger.
        level: The lowest level that it still says, such as ``logging.ERROR``.
    """
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _is_worth_saying(record: logging.LogRecord) -> bool:
    if _output.get() is None:  # no command runs any more
        return True
    level, words = verbosity(), record.getMessage()
    if level == "quiet":
        return record.levelno >= logging.ERROR
    # Lightning's tips advertise other products, also at length.
    return "Tip:" not in words and (level == "verbose" or not _SAYS_LITTLE.match(words))


def print_styled(text: str, style: str, file: TextIO | None = None) -> None:
    """Prints a text, in colour on a terminal.

    NO_COLOR prevents colours, and FORCE_COLOR has them in a pipe too. A file has none, nor has ``--quiet`` or
    ``--json``.

    Args:
        text: The text.
        style: Colours and weight as rich names them, such as ``bold green``.
        file: Where it goes; standard output if None.
    """
    stream = file or sys.stdout
    if not text or not _shows_colors(stream):
        print(text, file=stream, flush=True)
        return
    from rich.console import Console  # late: an error in a pipe need not wait for it

    console = Console(file=stream, force_terminal=True, highlight=False, soft_wrap=True)
    console.print(text, style=style, markup=False, emoji=False)
    stream.flush()


def _shows_colors(stream: TextIO) -> bool:
    if os.environ.get("NO_COLOR") or verbosity() in ("quiet", "json"):
        return False
    if stream.isatty():
        return True
    return bool(os.environ.get("FORCE_COLOR")) and not _is_file(stream)


def _is_file(stream: TextIO) -> bool:
    """Tells a file from a pipe; a stream without a descriptor is in memory."""
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except OSError:
        return False


def print_result(text: str, record: Mapping[str, Any] | None = None, conclusion: str = "") -> None:
    """Prints what a command is for, also where it is quiet.

    Args:
        text: The words.
        record: The same for machines, which ``--json`` prints instead; nothing where there is none.
        conclusion: The last line, which stands out on a terminal.
    """
    output = _output.get() or _Output()
    if output.level != "json":
        print(text, file=output.results or sys.stdout, flush=True)
        if conclusion:
            print_styled(conclusion, "bold green", output.results)
    elif record is not None:
        print_json(record)


def print_json(record: Mapping[str, Any]) -> None:
    """Prints an object as a line of JSON, where the command prints JSON. What is not finite becomes null."""
    output = _output.get()
    if output is not None and output.level == "json":
        print(json.dumps(_finite(record), allow_nan=False, default=str), file=output.results, flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
