"""Refuses numbers and texts in a config that no setting can mean."""

import math
from typing import Any

from jsonargparse import Namespace

from lightning_transfer.errors import UserError

# A callback of Lightning's may take an infinite bound, and a network of one's own too.
_MAY_BE_INFINITE = ("trainer", "model.init_args.network")


def check_numbers(config: Namespace) -> None:
    """Refuses values that are not numbers, and infinite ones of the data, the module and its optimizer.

    A text with a zero character is refused too, as no file has such a name.

    Args:
        config: The config of a command.

    Raises:
        UserError: For the first such value.
    """
    _check(config.as_dict(), "")


def _check(value: Any, key: str) -> None:
    if isinstance(value, dict):
        for name, part in value.items():
            _check(part, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for place, part in enumerate(value):
            _check(part, f"{key}[{place}]")
    elif isinstance(value, str) and "\0" in value:
        raise UserError(f"{key.replace('.init_args', '')} is {value!r}: expected a text without a zero character")
    elif isinstance(value, float) and not _is_sound(value, key):
        raise UserError(f"{key.replace('.init_args', '')} is {value}: expected a finite number")


def _is_sound(value: float, key: str) -> bool:
    return math.isfinite(value) or (math.isinf(value) and key.startswith(_MAY_BE_INFINITE))
