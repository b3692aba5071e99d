"""Counts and lists the examples that a split leaves out because they cannot be read."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from lightning.pytorch.utilities import rank_zero_warn

OnError = Literal["raise", "skip"]  # what to do with an example that cannot be read


class LeftOut(NamedTuple):
    """An example that is not in its split.

    Attributes:
        name: The path of its file, or its row.
        reason: Why it cannot be read.
    """

    name: str | int
    reason: str


def warn_of_left_out(split: str, left_out: Sequence[LeftOut], kept: int) -> None:
    """Says in one line how many examples a split leaves out, which, and why.

    Args:
        split: The name of the split, or the path of what is predicted.
        left_out: The examples that it leaves out.
        kept: The number of its other examples.
    """
    if left_out:
        listed = "; ".join(f"{_in_words(name)} ({' '.join(reason.split())})" for name, reason in left_out)
        total = kept + len(left_out)
        rank_zero_warn(f"{len(left_out)} of {total} examples of {split} cannot be read and are left out: {listed}")


def _in_words(name: str | int) -> str:
    return name if isinstance(name, str) else f"row {name}"
