"""Prints the script with which a shell completes commands, options and their values."""

import importlib
import inspect
import typing
from dataclasses import is_dataclass
from typing import Any

from jsonargparse import set_parsing_settings

from lightning_transfer.cli.commands import COMMANDS
from lightning_transfer.cli.experiment import CommandLine
from lightning_transfer.cli.suggestions import arguments_of_classes, classes_for
from lightning_transfer.cluster.signals import StopSignals
from lightning_transfer.errors import require_library


def print_completion(words: list[str]) -> None:
    """Prints the script, and ends the process.

    Args:
        words: ``--print_completion shtab-bash``, or the name of another shell.

    Raises:
        SystemExit: Status 2 after one line, if the shell is not known or shtab is not installed.
    """
    require_library("shtab", "--print_completion", "completion")
    set_parsing_settings(add_print_completion_argument=True)
    _AllCommands(words, StopSignals())


class _AllCommands(CommandLine):
    """Adds the commands that LightningCLI does not run, so that they are completed too."""

    def parse_arguments(self, parser: Any, args: Any) -> None:
        for subparser in parser._subcommands_action.choices.values():
            _name_classes(subparser)
        for name, command in COMMANDS.items():
            if command.module is not None:
                parser._subcommands_action.add_subcommand(name, importlib.import_module(command.module).parser())
        super().parse_arguments(parser, args)


def _name_classes(parser: Any) -> None:
    """Completes options that take a class by this package's classes, and offers the arguments of these.

    By itself jsonargparse would go through all loaded classes, and again for each argument that is a class. That would
    take many minutes.
    """
    for action in parser._actions:
        if classes := classes_for(action.dest):
            action.choices = classes
        elif _takes_a_class(getattr(action, "_typehint", None)):
            action.complete = {}  # completes nothing
    known = {action.dest for action in parser._actions}
    for option, owner in dict(arguments_of_classes()).items():
        if option not in known:
            parser.add_argument(f"--{option}", help=f"An argument of {owner}.")


def _takes_a_class(typehint: Any) -> bool:
    if typing.get_origin(typehint) is typing.Literal:
        return False
    if parts := typing.get_args(typehint):
        return any(_takes_a_class(part) for part in parts)
    is_plain = getattr(typehint, "__module__", "builtins") in ("builtins", "datetime", "pathlib")
    return inspect.isclass(typehint) and not is_plain and not is_dataclass(typehint)
