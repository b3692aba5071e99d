"""Runs ``lightning-transfer``: it finds the command, and prints one line for a user's mistake."""

import importlib
import shlex
import signal
import sys
import warnings
from typing import TYPE_CHECKING

from lightning_transfer.cli.allocation import keep_freed_memory
from lightning_transfer.cli.commands import find_command, front_page
from lightning_transfer.cli.mistakes import message_of, print_error
from lightning_transfer.cli.origins import own_line
from lightning_transfer.run.verbosity import hush_lightning, output_of_a_command

if TYPE_CHECKING:  # this import is slow, and a help does not need it
    from lightning.pytorch.cli import ArgsType

_SIGNALLED = 128  # a process that a signal ended has this status plus the signal's number
_INTERRUPTED = _SIGNALLED + signal.SIGINT
_GO_ON = ("study", "transfer")  # commands that go on where they stopped when they are given again


def main(args: "ArgsType" = None) -> None:
    """Runs a command.

    Args:
        args: The arguments as a list of strings; those of the process if None.

    Raises:
        SystemExit: Status 2 after one line on standard error, if the input is at fault; 130 after Ctrl-C.
    """
    given = sys.argv[1:] if args is None else args
    with output_of_a_command():
        try:
            if isinstance(given, list):
                _run(given, args)
            else:
                _run_experiment(args)
        except KeyboardInterrupt:
            raise SystemExit(_INTERRUPTED) from None
        except SystemExit as stop:
            if not isinstance(stop.__context__, KeyboardInterrupt):
                raise
            raise SystemExit(_INTERRUPTED) from None  # Lightning says 1 after Ctrl-C
        except Exception as error:
            message = message_of(error)
            if message is None:
                if (line := own_line(error)) is not None:
                    error.add_note(f"the line in your code: {line}")  # the traceback ends in a library's
                raise
            print_error(message)
            raise SystemExit(2) from None


def _run(words: list[str], args: "ArgsType") -> None:
    page = front_page(words[0]) if words else None
    if page is not None:
        print(page)
        raise SystemExit(0)
    command = find_command(words)
    if command is not None and command.module is not None:
        _prepare_process()
        try:
            importlib.import_module(command.module).main(words[1:])
        except (KeyboardInterrupt, SystemExit) as stop:
            status = stop.code if isinstance(stop, SystemExit) else _INTERRUPTED
            if words[0] in _GO_ON and isinstance(status, int) and status > _SIGNALLED:
                print(f"go on: {shlex.join(['lightning-transfer', *words])}", file=sys.stderr)
            raise
    elif words[0].startswith("--print_completion"):
        importlib.import_module("lightning_transfer.cli.completion").print_completion(words)
    else:
        _run_experiment(args)


def _run_experiment(args: "ArgsType") -> None:
    _prepare_process()
    from lightning_transfer.cli.experiment import run_experiment

    hush_lightning()
    run_experiment(args)


def _prepare_process() -> None:
    keep_freed_memory()
    # Lightning's own use of torch raises this warning in every run.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    # Lightning warns where nothing is held out and there is no best checkpoint. A mistyped monitor is an error here.
    warnings.filterwarnings("ignore", message=".*could not find the monitored key")
    # Lightning warns where a run goes on, or is evaluated, in another folder. The best checkpoint is known nonetheless.
    warnings.filterwarnings("ignore", message="The dirpath has changed")
