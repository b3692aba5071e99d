"""Computes means with their uncertainty and paired comparisons, and decides when a study may name a winner."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from lightning_transfer.study.sample_size import significance_of_each_look

CONFIDENCE = 0.95
SIGNIFICANCE = 0.05
_NOISE = 1e-6  # relative: metrics are float32, so equal differences may differ by up to a tenth of this

Scores = Mapping[int, float]  # seed -> score


@dataclass(frozen=True)
class Summary:
    """A mean and its t interval.

    Args:
        n: Number of values.
        mean: Mean of the values.
        low: Lower end of the 95 % interval; minus infinity for a single value.
        high: Upper end of the 95 % interval; infinity for a single value.
    """

    n: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Compares two sets of runs by the differences of their pairs.

    Args:
        differences: Difference of each pair, at least one.
        noise: Largest deviation at which differences still count as equal.
    """

    differences: tuple[float, ...]
    noise: float = 100 * _NOISE

    @property
    def difference(self) -> Summary:
        """The mean difference and its interval."""
        return summarise(self.differences)

    @property
    def p(self) -> float:
        """The p of the paired two-sided t test; 1 if the differences do not vary, which proves nothing."""
        if np.ptp(self.differences) < self.noise:
            return 1.0
        n = len(self.differences)
        t = np.mean(self.differences) / (np.std(self.differences, ddof=1) / math.sqrt(n))
        return float(2 * special.stdtr(n - 1, -abs(t)))

    @property
    def wilcoxon_p(self) -> float:
        """The p of Wilcoxon's two-sided signed-rank test on the same pairs.

        Pairs without a difference are left out; if none is left, the p is 1. The test is exact for up to 50 pairs, or
        up to 13 if some differences tie. For more pairs it is scipy's normal approximation.
        """
        found = np.round(np.array(self.differences) / self.noise)
        found = found[found != 0]
        return float(stats.wilcoxon(found).pvalue) if len(found) else 1.0


@dataclass(frozen=True)
class Verdict:
    """Names the best arm at a size, and says whether it wins.

    Args:
        best: Name of the arm with the best mean.
        rival: Name of the arm that the best is least surely better than; None if there is no other.
        comparison: Comparison of the best with that rival; None if they share no seed.
        p: The p of that comparison, corrected for the number of verdicts; 1 if the best is not ahead in it.
        undecided: Names of the arms that are not shown to be worse than the best.
    """

    best: str
    rival: str | None
    comparison: Comparison | None
    p: float
    undecided: tuple[str, ...]

    @property
    def is_winner(self) -> bool:
        """Whether the best is shown to be better than every other arm."""
        return self.rival is not None and self.p < SIGNIFICANCE


def summarise(values: Iterable[float]) -> Summary:
    """Computes the mean and its 95 % interval by Student's t."""
    found = list(values)
    mean, n = float(np.mean(found)), len(found)
    if n < 2:
        return Summary(n, mean, -math.inf, math.inf)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * stats.sem(found))
    return Summary(n, mean, mean - half, mean + half)


def compare(scores: Scores, others: Scores) -> Comparison | None:
    """Compares two sets of runs by the seeds that they share.

    Args:
        scores: Scores of one set by seed.
        others: Scores of the other set by seed.

    Returns:
        The comparison, positive if ``scores`` are higher; None if the sets share no seed.
    """
    seeds = sorted(set(scores) & set(others))
    if not seeds:
        return None
    largest = max(abs(table[seed]) for table in (scores, others) for seed in seeds)
    return Comparison(tuple(scores[seed] - others[seed] for seed in seeds), _NOISE * (largest or 1))


def smallest_wilcoxon_p(n: int) -> float:
    """Computes the smallest p of Wilcoxon's exact two-sided test on n pairs, when all differences have one sign."""
    return float(2.0 ** (1 - n))


def holm(p_values: Sequence[float], looks: tuple[int, int] | None = None) -> list[float]:
    """Corrects p values for their number, in the order given, and for the looks at them. Source: Holm, 1979."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, correction(len(p_values) - rank, looks) * p_values[place]))
        corrected[place] = largest
    return corrected


def judge(
    tables: Sequence[Mapping[str, Scores]], is_higher_better: bool = True, looks: tuple[int, int] | None = None
) -> list[Verdict]:
    """Judges which arm is best in each table, and whether it wins.

    The winner must beat each other arm by a paired t test, on the seeds that the two share. If all arms are equal, or
    some are tied at the top, this happens by chance in at most one table of twenty. The tables share that chance
    (Bonferroni), so it holds for naming any wrong winner at all. Another question is which arms are worse than the
    best. It has an answer for every pair, and so is corrected for all pairs of all tables.

    Args:
        tables: For each size, the scores by name and seed; no table is empty.
        is_higher_better: Whether a higher score is better; otherwise a lower one is.
        looks: Numbers of seeds at the first and at the last look, if seeds are added until the tables are decided. All
            looks then share the chance too.
    """
    return [_judge(table, len(tables), 1 if is_higher_better else -1, looks) for table in tables]


def _judge(table: Mapping[str, Scores], tables: int, sign: int, looks: tuple[int, int] | None) -> Verdict:
    best = max(table, key=lambda name: sign * float(np.mean(list(table[name].values()))))
    found = {name: compare(table[best], scores) for name, scores in table.items() if name != best}
    # If runs failed, the best mean may come from other seeds than the rival's. Only pairs show which is better.
    p = {name: pair.p if pair and sign * np.mean(pair.differences) > 0 else 1.0 for name, pair in found.items()}
    if not p:
        return Verdict(best, None, None, 1.0, ())
    rival = max(p, key=lambda name: p[name])
    of_pairs = correction(tables * math.comb(len(table), 2), looks)
    undecided = tuple(name for name in p if p[name] * of_pairs >= SIGNIFICANCE)
    return Verdict(best, rival, found[rival], min(1.0, p[rival] * correction(tables, looks)), undecided)


def correction(tests: int, looks: tuple[int, int] | None = None) -> float:
    """Computes the factor that corrects a p value for the number of tests, and of looks at them."""
    return SIGNIFICANCE / significance_of_each_look(SIGNIFICANCE / tests, *looks) if looks else float(tests)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Finds the points that no other beats, by being cheaper and as good, or better and as cheap.

    Args:
        points: Cost and score of each point.

    Returns:
        Indices of these points, from the cheapest to the best.
    """
    front: list[int] = []
    for place in sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1])):
        if not front or points[place][1] > points[front[-1]][1] or points[place] == points[front[-1]]:
            front.append(place)
    return front
