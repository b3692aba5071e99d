"""Builds the parser of a command from the signature and the docstring of the function that runs it."""

import inspect
import typing
from collections.abc import Callable, Collection, Sequence
from typing import Any

import docstring_parser

from lightning_transfer.cli.mistakes import Parser

Function = Callable[..., Any]


def parser_of(command: str, function: Function, skip: Collection[str] = ()) -> Parser:
    """Builds the parser of a command.

    Args:
        command: The name of the command.
        function: The function that runs it.
        skip: Parameters that the command line does not offer.

    Returns:
        The parser, whose values are the arguments of the function by name.
    """
    docstring = inspect.getdoc(function) or ""
    parser = Parser(
        prog=f"lightning-transfer {command}",
        description=docstring.partition("\nArgs:")[0].strip(),
        allow_abbrev=False,
    )
    add_parameters(parser, function, skip)
    return parser


def add_parameters(parser: Parser, function: Function, skip: Collection[str] = ()) -> None:
    """Adds the parameters of a function. Those without a default are positional, and the others are options.

    A list takes several words (``--strategies scratch full``), and a switch takes none (``--retry_failed``).

    Args:
        parser: The parser, which is changed in place.
        function: The function.
        skip: Parameters that are left out.
    """
    types = typing.get_type_hints(function)
    documented = docstring_parser.parse_from_object(function).params
    help_of = {parameter.arg_name: parameter.description for parameter in documented}
    special: set[str | int] = {*skip}
    for name, parameter in inspect.signature(function).parameters.items():
        if name in skip:
            continue
        required = parameter.default is inspect.Parameter.empty
        if typing.get_origin(types[name]) in (list, Sequence):
            [element] = typing.get_args(types[name])
            default: dict[str, Any] = {} if required else {"default": [*parameter.default]}
            parser.add_argument(
                name if required else f"--{name}", nargs="+", type=element, help=help_of[name], **default
            )
        elif types[name] is bool:
            parser.add_argument(f"--{name}", action="store_true", help=help_of[name])
        else:
            continue
        special.add(name)
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip=special)
