"""The command ``lightning-transfer``: which command it is, and one line for a user's mistake."""

import importlib
import logging
import sys
import warnings
from typing import TYPE_CHECKING

from lightning_transfer.cli.allocation import keep_freed_memory
from lightning_transfer.cli.commands import find_command, front_page
from lightning_transfer.cli.mistakes import message_of

if TYPE_CHECKING:  # what is imported here is slow, and a help needs none of it
    from lightning.pytorch.cli import ArgsType


def main(args: "ArgsType" = None) -> None:
    """Runs a command.

    Args:
        args: The arguments as a list of strings; those of the process if None.

    Raises:
        SystemExit: With status 2 after one line on standard error, where the input is at fault.
    """
    given = sys.argv[1:] if args is None else args
    try:
        if isinstance(given, list):
            _run(given, args)
        else:
            _run_experiment(args)
    except Exception as error:
        message = message_of(error)
        if message is None:
            raise
        print(f"lightning-transfer: error: {message}", file=sys.stderr)
        raise SystemExit(2) from None


def _run(words: list[str], args: "ArgsType") -> None:
    page = front_page(words[0]) if words else None
    if page is not None:
        print(page)
        raise SystemExit(0)
    command = find_command(words)
    if command is not None and command.module is not None:
        _prepare_process()
        importlib.import_module(command.module).main(words[1:])
    elif words[0].startswith("--print_completion"):
        importlib.import_module("lightning_transfer.cli.completion").print_completion(words)
    else:
        _run_experiment(args)


def _run_experiment(args: "ArgsType") -> None:
    _prepare_process()
    from lightning_transfer.cli.experiment import run_experiment

    run_experiment(args)


def _prepare_process() -> None:
    keep_freed_memory()
    # At every run, Lightning's own use of torch and its advertisements.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    # Said where nothing is held out, and no best checkpoint is to be had. A mistyped monitor is an error.
    warnings.filterwarnings("ignore", message=".*could not find the monitored key")
    # Said where a run goes on, or is evaluated, in another folder. The best checkpoint is known all the same.
    warnings.filterwarnings("ignore", message="The dirpath has changed")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "Tip:" not in record.msg)
