"""Runs ``lightning-transfer``: it finds the command, and prints one line for a user's mistake."""

import importlib
import sys
import warnings
from typing import TYPE_CHECKING

from lightning_transfer.cli.allocation import keep_freed_memory
from lightning_transfer.cli.broken_output import ends_with_output, words_failures_of_threads
from lightning_transfer.cli.commands import find_command, front_page
from lightning_transfer.cli.mistakes import message_of, print_error
from lightning_transfer.cli.origins import own_line
from lightning_transfer.cluster.signals import GO_ON, StopSignals, ends_in_one_line
from lightning_transfer.run.verbosity import hush_lightning, output_of_a_command

if TYPE_CHECKING:  # this import is slow, and a help does not need it
    from lightning.pytorch.cli import ArgsType

_GO_ON = (["study"], ["transfer"])  # commands that go on where they stopped when they are given again


def main(args: "ArgsType" = None) -> None:
    """Runs a command.

    Args:
        args: The arguments as a list of strings; those of the process if None.

    Raises:
        SystemExit: Status 2 after one line on standard error, if the input is at fault; 128 plus the number of a signal
            that ended the command, after a line that says how to go on.
    """
    given = sys.argv[1:] if args is None else args
    words = given if isinstance(given, list) else []
    with (
        ends_with_output(),
        words_failures_of_threads(),
        output_of_a_command(),
        ends_in_one_line(words, words[:1] in _GO_ON) as signals,
    ):
        try:
            if isinstance(given, list):
                _run(given, signals)
            else:
                _run_experiment(given, signals)
        except Exception as error:
            if signals.ended_by:
                raise
            message = message_of(error)
            if message is None:
                if (line := own_line(error)) is not None:
                    error.add_note(f"the line in your code: {line}")  # the traceback ends in a library's
                raise
            print_error(message)
            for note in (note for note in getattr(error, "__notes__", ()) if GO_ON in note):
                print(note, file=sys.stderr)
            raise SystemExit(2) from None


def _run(words: list[str], signals: StopSignals) -> None:
    page = front_page(words[0]) if words else None
    if page is not None:
        print(page)
        raise SystemExit(0)
    command = find_command(words)
    if command is not None and command.module is not None:
        signals.no_training_follows()
        _prepare_process()
        importlib.import_module(command.module).main(words[1:])
    elif words[0].startswith("--print_completion"):
        importlib.import_module("lightning_transfer.cli.completion").print_completion(words)
    else:
        _run_experiment(words, signals)


def _run_experiment(args: "ArgsType", signals: StopSignals) -> None:
    _prepare_process()
    from lightning_transfer.cli.experiment import CommandLine

    hush_lightning()
    CommandLine(args, signals)


def _prepare_process() -> None:
    keep_freed_memory()
    # Lightning's own use of torch raises this warning in every run.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    # Lightning warns where nothing is held out and there is no best checkpoint. A mistyped monitor is an error here.
    warnings.filterwarnings("ignore", message=".*could not find the monitored key")
    # Lightning warns where a run goes on, or is evaluated, in another folder. The best checkpoint is known nonetheless.
    warnings.filterwarnings("ignore", message="The dirpath has changed")
