"""How a report writes the metric of a study: an accuracy in percent, a loss as it is."""

from typing import NamedTuple

from lightning_transfer.study.config import Study


class Unit(NamedTuple):
    """How figures are written.

    Attributes:
        name: The metric with its unit.
        decimals: Digits after the point.
        of_differences: What stands after a difference.
        note: What a reader has to know of the direction.
    """

    name: str
    decimals: int
    of_differences: str
    note: str = ""


def unit_of(study: Study) -> Unit:
    """Decides how a study's metric is written: what rises to 1 in percent, and what falls as it was logged."""
    if study.is_higher_better:
        return Unit(f"{study.metric}, %", 2, "points")
    return Unit(study.metric, 4, f"in {study.metric}", " Lower is better.")
