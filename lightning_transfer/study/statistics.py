"""Means with their uncertainty, paired comparisons, and when a study may name a winner."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
SIGNIFICANCE = 0.05
_NOISE = 1e-6  # of a metric: it is float32, so that equal differences part by up to a tenth of this

Scores = Mapping[int, float]  # by seed


@dataclass(frozen=True)
class Summary:
    """A mean and its t interval.

    Args:
        n: Number of values.
        mean: Their mean.
        low: Lower end of the 95 % interval; minus infinity for a single value.
        high: Upper end.
    """

    n: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """One set of runs against another, by the differences of their pairs.

    Args:
        differences: One for each pair; not none.
        noise: Differences that part by less are equal.
    """

    differences: tuple[float, ...]
    noise: float = 100 * _NOISE

    @property
    def difference(self) -> Summary:
        """The mean difference and its interval."""
        return summarise(self.differences)

    @property
    def p(self) -> float:
        """Of the paired t test, two-sided; 1 where the differences do not vary, which proves nothing."""
        if np.ptp(self.differences) < self.noise:
            return 1.0
        return float(stats.ttest_1samp(self.differences, 0).pvalue)

    @property
    def wilcoxon_p(self) -> float:
        """Of Wilcoxon's signed-rank test on the same pairs, two-sided.

        Pairs without a difference are left out; 1 where none is left. It is exact for up to 50 pairs, of which up to 13
        where some differences tie, and scipy's normal approximation for more.
        """
        found = np.round(np.array(self.differences) / self.noise)
        found = found[found != 0]
        return float(stats.wilcoxon(found).pvalue) if len(found) else 1.0


@dataclass(frozen=True)
class Verdict:
    """The best at a size, and whether it may be called the winner.

    Args:
        best: Name of the one with the best mean.
        rival: Name of the one that it is least surely better than; None without any other.
        comparison: The best against that rival; None where they share no seed.
        p: Of that comparison, corrected for the number of verdicts; 1 where the best is not ahead in it.
        undecided: Names of those that are not shown to be worse than the best.
    """

    best: str
    rival: str | None
    comparison: Comparison | None
    p: float
    undecided: tuple[str, ...]

    @property
    def is_winner(self) -> bool:
        """Whether the best is shown to be better than every other."""
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
        scores: By seed.
        others: By seed.

    Returns:
        The comparison, positive where ``scores`` are higher; None where they share no seed.
    """
    seeds = sorted(set(scores) & set(others))
    if not seeds:
        return None
    largest = max(abs(table[seed]) for table in (scores, others) for seed in seeds)
    return Comparison(tuple(scores[seed] - others[seed] for seed in seeds), _NOISE * (largest or 1))


def smallest_wilcoxon_p(n: int) -> float:
    """The smallest p that Wilcoxon's exact two-sided test can give on n pairs: all differences of one sign."""
    return float(2.0 ** (1 - n))


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects p values for their number, in the order given. Source: Holm, 1979."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def judge(tables: Sequence[Mapping[str, Scores]], is_higher_better: bool = True) -> list[Verdict]:
    """Says of each table who is best, and whether it wins.

    The winner has to beat each of the others by a paired t test, on the seeds that the two share: with all of them
    equal, or with some of them tied at the top, that happens by chance in at most one table of twenty. The tables share
    that chance (Bonferroni), so that it holds for naming any wrong winner at all. Who is worse than the best is another
    question, with an answer for every pair: that is corrected for all pairs of all tables.

    Args:
        tables: For each size the scores by name and seed; none is empty.
        is_higher_better: Whether a higher score is better, or a lower one.
    """
    return [_judge(table, len(tables), 1 if is_higher_better else -1) for table in tables]


def _judge(table: Mapping[str, Scores], tables: int, sign: int) -> Verdict:
    best = max(table, key=lambda name: sign * float(np.mean(list(table[name].values()))))
    found = {name: compare(table[best], scores) for name, scores in table.items() if name != best}
    # Where runs failed, the best mean may come from other seeds than the rival's: only pairs show who is better.
    p = {name: pair.p if pair and sign * pair.difference.mean > 0 else 1.0 for name, pair in found.items()}
    if not p:
        return Verdict(best, None, None, 1.0, ())
    rival = max(p, key=lambda name: p[name])
    pairs = tables * math.comb(len(table), 2)
    undecided = tuple(name for name in p if p[name] * pairs >= SIGNIFICANCE)
    return Verdict(best, rival, found[rival], min(1.0, p[rival] * tables), undecided)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Finds the points that no other beats in both: neither cheaper and as good, nor better and as cheap.

    Args:
        points: The cost and the score of each.

    Returns:
        Their places, from the cheapest to the best.
    """
    front: list[int] = []
    for place in sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1])):
        if not front or points[place][1] > points[front[-1]][1] or points[place] == points[front[-1]]:
            front.append(place)
    return front
