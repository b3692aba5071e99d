"""Runs ``lightning-transfer``: it finds the command, and prints one line for a user's mistake."""

import importlib
import logging
import sys
import warnings
from typing import TYPE_CHECKING

from lightning_transfer.cli.allocation import keep_freed_memory
from lightning_transfer.cli.commands import find_command, front_page
from lightning_transfer.cli.mistakes import message_of

if TYPE_CHECKING:  # this import is slow, and a help does not need it
    from lightning.pytorch.cli import ArgsType


def main(args: "ArgsType" = None) -> None:
    """Runs a command.

    Args:
        args: The arguments as a list of strings; those of the process if None.

    Raises:
        SystemExit: Status 2 after one line on standard error, if the input is at fault.
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
    # Lightning's own use of torch raises this warning in every run.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    # Lightning warns where nothing is held out and there is no best checkpoint. A mistyped monitor is an error here.
    warnings.filterwarnings("ignore", message=".*could not find the monitored key")
    # Lightning warns where a run goes on, or is evaluated, in another folder. The best checkpoint is known nonetheless.
    warnings.filterwarnings("ignore", message="The dirpath has changed")
    # Lightning prints tips that advertise other products.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "Tip:" not in record.msg)
