"""Reads settings that are given by dotted names, such as ``--overrides.data.path``, each beside the others."""

from typing import Any

import yaml

from lightning_transfer.cli.mistakes import Parser
from lightning_transfer.errors import UserError
from lightning_transfer.study.grid import has_grid


def parse_with_settings(parser: Parser, arguments: list[str], option: str) -> dict[str, Any]:
    """Parses arguments, some of which change settings within one option.

    The parser itself would forget a setting where a later one has the same first name.

    Args:
        parser: The parser, which has the option.
        arguments: The arguments.
        option: The option, whose value is a mapping of settings, nested or by dotted names.

    Returns:
        The values of all options by name, with those settings in the option's mapping: a grid of values as such, and
        all else as texts.

    Raises:
        UserError: If a setting has no value.
    """
    others: list[str] = []
    changes: list[tuple[str, str]] = []
    words = iter(arguments)
    for word in words:
        if not word.startswith(f"--{option}."):
            others.append(word)
            continue
        name, equals, value = word.removeprefix(f"--{option}.").partition("=")
        given = value if equals else next(words, None)
        if given is None:
            raise UserError(f"--{option}.{name} has no value: give one behind it")
        changes.append((name, given))
    values: dict[str, Any] = parser.parse_args(others).as_dict()
    for name, given in changes:
        values[option] = _changed(values[option] or {}, name, _read(given))
    return values


def _read(given: str) -> Any:
    """Reads a value that has a grid in it. All others stay the texts that a run is given."""
    try:
        value = yaml.safe_load(given) if "grid" in given else given
    except yaml.YAMLError:
        return given
    return value if has_grid(value) else given


def _changed(settings: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Sets a value where the settings have it, nested or by its dotted name; else by that name."""
    first, _, rest = name.partition(".")
    if rest and isinstance(below := settings.get(first), dict):
        return {**settings, first: _changed(below, rest, value)}
    return {**settings, name: value}
