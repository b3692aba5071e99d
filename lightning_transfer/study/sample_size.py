"""Says what a number of seeds can show, and how strict a study that adds seeds must be each time it looks."""

import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from scipy import optimize, stats

POWER = 0.8
_SIMULATED_STUDIES = 100_000


def smallest_difference(pairs: int, significance: float) -> float:
    """Computes the smallest difference that a paired two-sided t test finds in four of five studies.

    Args:
        pairs: Number of pairs.
        significance: Level of the test.

    Returns:
        The true mean difference, in standard deviations of the differences of pairs; infinity for a single pair.
    """
    if pairs < 2:
        return math.inf
    critical = float(stats.t.isf(significance / 2, pairs - 1))

    def missing_power(difference: float) -> float:
        return float(stats.nct.sf(critical, pairs - 1, difference * math.sqrt(pairs))) - POWER

    highest = 2.0 * (critical + 2) / math.sqrt(pairs)
    while missing_power(highest) < 0:
        highest *= 2
    return float(optimize.brentq(missing_power, 0, highest))


def spread_of_differences(tables: Sequence[Mapping[str, Mapping[int, float]]]) -> float | None:
    """Computes the standard deviation of the differences of pairs, pooled over all pairs of arms at all sizes.

    Args:
        tables: For each size, the scores by name and seed.

    Returns:
        The standard deviation; None where no two arms share two seeds.
    """
    squares, degrees = 0.0, 0
    for table in tables:
        names = list(table)
        for place, name in enumerate(names):
            for other in names[:place]:
                seeds = table[name].keys() & table[other].keys()
                differences = [table[name][seed] - table[other][seed] for seed in seeds]
                if len(differences) > 1:
                    squares += float(np.var(differences)) * len(differences)
                    degrees += len(differences) - 1
    return math.sqrt(squares / degrees) if degrees else None


@cache
def significance_of_each_look(significance: float, first: int, last: int) -> float:
    """Computes the level of each test of a study that looks at its pairs again whenever it has one more.

    Pocock's group-sequential design (1977, "Group sequential methods in the design and analysis of clinical trials"),
    for t tests: all looks share one level, with which any of them finds a difference where there is none as rarely as
    ``significance`` says. The level is the quantile of the smallest p of all looks, over 100,000 simulated studies.

    Args:
        significance: Probability that any look finds a difference where there is none.
        first: Number of pairs at the first look.
        last: Number of pairs at the last look.
    """
    pairs = np.random.default_rng(0).standard_normal((_SIMULATED_STUDIES, last))
    sums, squares = pairs.cumsum(1), (pairs**2).cumsum(1)
    smallest = np.ones(_SIMULATED_STUDIES)
    for n in range(max(2, first), last + 1):
        mean = sums[:, n - 1] / n
        variance = (squares[:, n - 1] - n * mean**2) / (n - 1)
        np.minimum(smallest, 2 * stats.t.sf(abs(mean) * np.sqrt(n / variance), n - 1), out=smallest)
    return float(np.quantile(smallest, significance))
