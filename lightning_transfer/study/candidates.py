"""Scores the candidates of a tuning by the validations of their runs."""

import math
from collections.abc import Iterable
from statistics import fmean
from typing import Any, NamedTuple

from lightning_transfer.study.cells import Arm, Cell
from lightning_transfer.study.config import Study

Key = tuple[Arm, float | None]  # an arm at a size


class Candidate(NamedTuple):
    """A value that is tried for an arm at a size, with the runs that try it, one for each seed of the tuning.

    Attributes:
        value: The value.
        cells: Its runs.
    """

    value: Any
    cells: list[Cell]

    @property
    def has_failed(self) -> bool:
        """Whether one of its runs has failed, be it after the part by which it is ranked."""
        return any(cell.failure for cell in self.cells)


def ranked(study: Study, cells: Iterable[Cell]) -> dict[Key, list[Candidate]]:
    """Ranks the candidates of each arm at each size whose runs have all ended, the best first.

    A candidate is left out if one of its runs failed on the way. Equal ones are in the order of the cells.

    Args:
        study: The study.
        cells: Tuning cells, finished or not. One that pauses counts with its best checkpoint before the pause.
    """
    runs: dict[Key, dict[str, list[Cell]]] = {}
    for cell in cells:
        assert cell.arm is not None
        runs.setdefault((cell.arm, cell.size), {}).setdefault(repr(cell.value), []).append(cell)
    found = {}
    for key, by_value in runs.items():
        if all(cell.is_over for tried in by_value.values() for cell in tried):
            scored = [(tried, score) for tried in by_value.values() if (score := _score(study, tried))]
            scored.sort(key=lambda pair: pair[1], reverse=True)
            found[key] = [Candidate(tried[0].value, tried) for tried, _ in scored]
    return found


def _score(study: Study, cells: list[Cell]) -> tuple[float, float] | None:
    """Returns the mean metric and the mean loss of a candidate's runs, both with a sign by which more is better."""
    scores = [found for cell in cells if (found := _score_of_run(study, cell)) is not None]
    if len(scores) < len(cells):
        return None
    metric, loss = (fmean(values) for values in zip(*scores, strict=True))
    return metric, loss


def _score_of_run(study: Study, cell: Cell) -> tuple[float, float] | None:
    """Returns the validation by which a run is judged, or None if it has not come to its end or to its pause."""
    if not (cell.is_finished or cell.is_paused):
        return None
    sign, metrics = 1 if study.is_higher_better else -1, _judged_by(cell)
    metric, loss = sign * cell.read(metrics, "val/", study.metric), -metrics.get("val/loss", 0.0)
    return (metric, loss) if math.isfinite(metric) else None


def _judged_by(cell: Cell) -> dict[str, float]:
    end, validated = cell.part[1], cell.validated
    if end == 1 or not validated:
        result = cell.result
        assert result is not None
        return result["validation"] or {}
    # A run that stopped training by itself has no validation so late.
    return validated[min((share for share in validated if share >= end), default=max(validated))]
