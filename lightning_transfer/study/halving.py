"""Trains the candidates of a tuning in rungs, and stops the worse ones after each: successive halving."""

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from lightning_transfer.study.candidates import Key, ranked
from lightning_transfer.study.cells import Cell
from lightning_transfer.study.config import Study


class Rung(NamedTuple):
    """A part of the training, which only the best candidates of the part before have.

    Attributes:
        begin: Share of the training that is over before.
        end: Share that is over afterwards.
        candidates: Number of candidates of each arm at each size that train in it.
    """

    begin: float
    end: float
    candidates: int


def rungs(study: Study, strategy: str = "") -> list[Rung]:
    """Lists the rungs of a study: the same for each arm and size. Without halving there is one, the whole training.

    A strategy with a longer first share of its own has as many rungs, and none ends before that share.

    A candidate that is left alone has won, so its training is not needed any more. Finalists train to their end: what
    decides between good candidates is mostly the end of a schedule. All runs of a rung are waited for
    before the next begins. What goes on then depends on the results alone, and not on which run was the first to end,
    as it would where candidates are promoted while others still run.

    Source:
        Jamieson and Talwalkar, Non-stochastic best arm identification and hyperparameter optimization, 2016; Li et al.,
        A system for massively parallel hyperparameter tuning (ASHA), 2020, promote without waiting.
    """
    tuning = study.tuning
    number = len(tuning.values) if tuning else 0
    if tuning is None or tuning.halving is None:
        return [Rung(0.0, 1.0, number)]
    halving, begin, found = tuning.halving, 0.0, list[Rung]()
    end = halving.first
    while number > 1 and begin < 1:
        found.append(Rung(begin, 1.0 if found and number <= halving.finalists else end, number))
        begin, end = found[-1].end, min(1.0, round(end * halving.reduction, 9))  # 0.2 * 3 is a little over 0.6
        number = min(number, max(halving.finalists, number // halving.reduction))
    least = halving.first_of.get(strategy, 0.0)
    return [Rung(rung.begin and max(rung.begin, least), max(rung.end, least), rung.candidates) for rung in found]


def in_rung(study: Study, cells: Iterable[Cell], number: int) -> list[Cell]:
    """Lists the cells that train in a rung, in their order. Which they are follows from the results before it.

    Args:
        study: The study.
        cells: All its tuning cells.
        number: Number of the rung, from 0.

    Returns:
        The cells, which are to run until the end of the rung. An arm has none at a size where a run of the rung before
        has not ended. Where a run has finished and does not tell what it was worth at the end of the rung, its rivals
        train to their end as well.
    """
    cells = list(cells)
    whole = _not_told(study, cells, number)
    if number > 0:
        before = ranked(study, in_rung(study, cells, number - 1))
        all_go = _not_told(study, cells, number - 1)
        most = rungs(study)[number].candidates
        going = [
            candidate for key, rivals in before.items() for candidate in (rivals if key in all_go else rivals[:most])
        ]
        names = {cell.name for candidate in going for cell in candidate.cells}
        cells = [cell for cell in cells if cell.name in names]
    found = []
    for cell in cells:
        rung = rungs(study, _strategy(cell))[number]
        found.append(replace(cell, part=(rung.begin, 1.0 if (cell.arm, cell.size) in whole else rung.end)))
    return found


def stopped(study: Study, cells: Iterable[Cell]) -> set[str]:
    """Names the tuning cells that do not train any more, because others are better, or none is left to compare with."""
    cells, last = list(cells), len(rungs(study)) - 1
    ended: set[str] = set()
    for number in range(last + 1):
        now = in_rung(study, cells, number)
        going = {cell.name for cell in in_rung(study, cells, number + 1)} if number < last else set()
        waited_for = {(cell.arm, cell.size) for cell in now if not cell.is_over}
        ended |= {cell.name for cell in now if cell.name not in going and (cell.arm, cell.size) not in waited_for}
    return ended


def expected_share(study: Study, cell: Cell) -> float:
    """Returns how much of its training a candidate like that of a cell has on average, if none fails."""
    found = rungs(study, _strategy(cell))
    return sum(rung.candidates * (rung.end - rung.begin) for rung in found) / max(1, found[0].candidates)


def trained_share(cells: Iterable[Cell]) -> float:
    """Returns how much of the training of all candidates was run, as a share of the full grid's."""
    shares = [1.0 if cell.is_finished else max(cell.validated, default=0.0) for cell in cells]
    return sum(shares) / len(shares)


def _not_told(study: Study, cells: list[Cell], number: int) -> set[Key]:
    """Names the arms at a size with a finished run that does not tell what it was worth at the end of a rung."""
    found = set()
    for cell in cells:
        assert cell.arm is not None
        if cell.is_finished and not cell.tells(rungs(study, cell.arm.strategy)[number].end):
            found.add((cell.arm, cell.size))
    return found


def _strategy(cell: Cell) -> str:
    assert cell.arm is not None
    return cell.arm.strategy
