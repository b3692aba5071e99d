"""The command ``lightning-transfer``: which command it is, and one line for a user's mistake."""

import importlib
import logging
import sys
import warnings

from lightning.pytorch.cli import ArgsType

from lightning_transfer.cli.allocation import keep_freed_memory
from lightning_transfer.cli.experiment import CommandLine
from lightning_transfer.cli.mistakes import message_of
from lightning_transfer.cluster.signals import StopSignals
from lightning_transfer.errors import UserError, did_you_mean

# Commands that train nothing themselves, by the module whose ``main`` takes their arguments.
COMMANDS = {
    "ensemble": "lightning_transfer.cli.ensemble",
    "report": "lightning_transfer.cli.report_runs",
    "study": "lightning_transfer.cli.study_runs",
}


def main(args: ArgsType = None) -> None:
    """Runs a command.

    Args:
        args: The arguments as a list of strings; those of the process if None.

    Raises:
        SystemExit: With status 2 after one line on standard error, where the input is at fault.
    """
    keep_freed_memory()
    # At every run, Lightning's own use of torch and its advertisements.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    # Said where nothing is held out, and no best checkpoint is to be had. A mistyped monitor is an error.
    warnings.filterwarnings("ignore", message=".*could not find the monitored key")
    # Said where a run goes on, or is evaluated, in another folder. The best checkpoint is known all the same.
    warnings.filterwarnings("ignore", message="The dirpath has changed")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda record: "Tip:" not in record.msg)
    given = sys.argv[1:] if args is None else args
    try:
        words = given if isinstance(given, list) else []
        command = words[0] if words and not words[0].startswith("-") else None
        _check_command(command)
        if command in COMMANDS:
            importlib.import_module(COMMANDS[command]).main(words[1:])
        else:
            with StopSignals() as signals:
                CommandLine(args, signals)
    except Exception as error:
        message = message_of(error)
        if message is None:
            raise
        print(f"lightning-transfer: error: {message}", file=sys.stderr)
        raise SystemExit(2) from None


def _check_command(command: str | None) -> None:
    known = [name.replace("_", "-") for name in (*CommandLine.subcommands(), *COMMANDS)]
    if command is not None and command.replace("_", "-") not in known:
        meant = did_you_mean(command, known)
        raise UserError(f"{command!r} is not one of the commands {', '.join(known)}{meant and f'; {meant}'}")
