"""Decides how a report writes the metric of a study: an accuracy in percent, a loss as it is."""

from typing import NamedTuple

from lightning_transfer.directions import is_share
from lightning_transfer.study.config import Study


class Unit(NamedTuple):
    """The form in which a report writes its numbers.

    Attributes:
        name: Name of the metric, with its unit.
        decimals: Number of digits after the point.
        of_differences: Text that follows a difference.
        note: Note for the reader if lower is better, else empty.
    """

    name: str
    decimals: int
    of_differences: str
    note: str = ""


def unit_of(study: Study) -> Unit:
    """Chooses percent for a share, such as an accuracy, and the logged value for any other metric."""
    if is_share(study.metric):
        return Unit(f"{study.metric}, %", 2, "points")
    return Unit(study.metric, 4, f"in {study.metric}", "" if study.is_higher_better else " Lower is better.")
