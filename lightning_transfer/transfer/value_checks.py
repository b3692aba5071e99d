"""Checks the numbers that callbacks are given, before a training finds out."""

import math
from numbers import Integral, Real
from typing import Any

from lightning_transfer.errors import UserError


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Refuses what is no whole number from a least one on.

    Raises:
        UserError: For anything else. It names the argument.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < least:
        raise UserError(f"{name} is {value!r}: expected a whole number of at least {least}")


def check_amount(name: str, value: Any, or_more: bool = True) -> None:
    """Refuses what is no finite number from 0 on.

    Args:
        name: What the error calls it.
        value: The number.
        or_more: Whether it may be 0.

    Raises:
        UserError: For anything else. It names the argument.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value < 0 or not (value or or_more):
        raise UserError(f"{name} is {value!r}: expected a finite number, {'0 or more' if or_more else 'more than 0'}")
