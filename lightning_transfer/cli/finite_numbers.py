"""Refuses numbers and texts in a config that no setting can mean."""

import math
from collections.abc import Iterator
from typing import Any

from jsonargparse import Namespace

from lightning_transfer.errors import UserError

# A callback of Lightning's may take an infinite bound, and a network of one's own too.
_MAY_BE_INFINITE = ("trainer", "model.network")


def check_numbers(config: Namespace) -> None:
    """Refuses values that are not numbers, and infinite ones of the data, the module and its optimizer.

    A text with a zero character is refused too, as no file has such a name.

    Args:
        config: The config of a command.

    Raises:
        UserError: For the first such value.
    """
    for key, value in values_of(config.as_dict()):
        if isinstance(value, str) and "\0" in value:
            raise UserError(f"{key} is {value!r}: expected a text without a zero character")
        may_be_infinite = key.startswith(_MAY_BE_INFINITE)
        if isinstance(value, float) and not (math.isfinite(value) or (math.isinf(value) and may_be_infinite)):
            raise UserError(f"{key} is {value}: expected a finite number")


def values_of(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Walks through the values of a config, each with its dotted path as the command line takes it.

    Args:
        config: The config, or a part of it, in plain types.
        key: The path of that part.
    """
    if isinstance(config, dict):
        for name, part in config.items():
            yield from values_of(part, key if name == "init_args" else f"{key}.{name}" if key else str(name))
    elif isinstance(config, list | tuple):
        for place, part in enumerate(config):
            yield from values_of(part, f"{key}[{place}]")
    else:
        yield key, config
