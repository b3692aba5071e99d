"""Sorts the names of classes as people do: by number where they are numbers, and 2 before 10 within words."""

import re
from collections.abc import Iterable

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_DIGITS = re.compile(r"(\d+)")


def in_natural_order(names: Iterable[str]) -> list[str]:
    """Sorts names. Numbers in them count by their size, and the rest is in the order of the alphabet."""
    names = list(names)
    if all(_NUMBER.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (_size(name), name))
    return sorted(names, key=lambda name: ([_part(part) for part in _DIGITS.split(name)], name))


def _size(name: str) -> float:
    return int(name) if _DIGITS.fullmatch(name) else float(name)  # a large id has more digits than a float


def _part(part: str) -> tuple[int, int, str]:
    return (0, int(part), "") if _DIGITS.fullmatch(part) else (1, 0, part)
