"""The statistics of a study: against cases worked by hand, and by simulation."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from scipy.stats import binomtest, rankdata, ttest_1samp

from lightning_transfer.study.sample_size import smallest_difference, spread_of_differences
from lightning_transfer.study.statistics import (
    Verdict,
    compare,
    holm,
    judge,
    pareto_front,
    smallest_wilcoxon_p,
    summarise,
)


def test_interval_of_five_values_is_students() -> None:
    summary = summarise([1, 2, 3, 4, 5])
    # The standard error is sqrt(2.5 / 5), and the 97.5 % point of t with 4 degrees of freedom 2.776445.
    half = 2.776445 * math.sqrt(0.5)
    assert (summary.n, summary.mean) == (5, 3)
    assert (summary.low, summary.high) == pytest.approx((3 - half, 3 + half), abs=1e-6)


def test_single_value_has_no_interval() -> None:
    summary = summarise([7])
    assert (summary.mean, summary.low, summary.high) == (7, -math.inf, math.inf)


@pytest.mark.filterwarnings("error")
def test_interval_of_equal_values_is_their_mean_without_a_warning() -> None:
    summary = summarise([81.25, 81.25, 81.25])
    assert (summary.mean, summary.low, summary.high) == (81.25, 81.25, 81.25)
    nearly = summarise([81.25, 81.25 + 1e-14, 81.25])
    assert (nearly.low, nearly.high) == pytest.approx((81.25, 81.25))


def test_comparison_is_of_pairs_and_not_of_groups() -> None:
    baseline = {0: 10.0, 1: 50.0, 2: 90.0, 3: 20.0, 4: 70.0}
    scores = {seed: baseline[seed] + gain for seed, gain in enumerate([1, 2, 3, 4, 5])}
    comparison = compare(scores, baseline)
    assert comparison is not None
    assert comparison.difference.mean == pytest.approx(3)
    # t = 3 / sqrt(0.5) = 4.2426; with 4 degrees of freedom P(|T| > t) = 1 - (t / r) (1 + 2 / r^2), r^2 = t^2 + 4 = 22.
    r = math.sqrt(22)
    assert comparison.p == pytest.approx(1 - math.sqrt(18) / r * (1 + 2 / 22), abs=1e-9)
    assert comparison.wilcoxon_p == pytest.approx(2 / 2**5)


def test_only_shared_seeds_are_compared() -> None:
    comparison = compare({0: 5.0, 1: 6.0, 2: 99.0}, {0: 1.0, 1: 4.0, 7: -99.0})
    assert comparison is not None
    assert (comparison.difference.n, comparison.difference.mean) == (2, 3)
    assert compare({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize("scores", [{0: 3.0}, {0: 3.0, 1: 4.0, 2: 5.0}])
def test_differences_that_do_not_vary_prove_nothing(scores: dict[int, float]) -> None:
    comparison = compare(scores, {seed: score - 2 for seed, score in scores.items()})
    assert comparison is not None
    assert comparison.p == 1


def test_wilcoxon_on_five_pairs_never_goes_below_a_sixteenth() -> None:
    assert smallest_wilcoxon_p(5) == 0.0625
    rng = np.random.default_rng(0)
    found = [compare(dict(enumerate(rng.normal(100, 1, 5))), dict(enumerate(rng.normal(0, 1, 5)))) for _ in range(50)]
    assert {comparison.wilcoxon_p for comparison in found if comparison} == {0.0625}


def percent(correct: dict[int, int], examples: int) -> dict[int, float]:
    """An accuracy as a run records it: a float32."""
    return {seed: 100 * float(np.float32(count / examples)) for seed, count in correct.items()}


def test_equal_differences_are_equal_whatever_floats_make_of_them() -> None:
    counts, gains = {0: 7, 1: 29, 2: 57, 3: 14, 4: 58, 5: 55}, {0: 1, 1: 1, 2: -1, 3: 2, 4: 1, 5: 0}
    comparison = compare(percent({seed: counts[seed] + gains[seed] for seed in counts}, 300), percent(counts, 300))
    # The ranks without the zero are 2.5, 2.5, -2.5, 5, 2.5: of the 32 choices of signs, five give the negative ones a
    # sum of 2.5 or less, and as many the positive ones.
    assert comparison is not None
    assert comparison.wilcoxon_p == 10 / 32
    comparison = compare(percent({seed: count + 1 for seed, count in counts.items()}, 300), percent(counts, 300))
    assert comparison is not None
    assert (comparison.p, comparison.wilcoxon_p) == (1, 2 / 2**6)


@pytest.mark.parametrize("ties", [False, True])
def test_wilcoxon_is_exact_with_ties_too(ties: bool) -> None:
    gains = np.arange(1.0, 13) * np.resize([1, 1, 1, -1], 12)
    if ties:
        gains = np.sign(gains) * np.ceil(abs(gains) / 2)
    comparison = compare(dict(enumerate(gains)), dict.fromkeys(range(12), 0.0))
    assert comparison is not None
    ranks = rankdata(abs(gains))
    signs = 1 - 2 * (np.arange(2**12)[:, None] >> np.arange(12) & 1)
    as_extreme = abs(signs @ ranks) >= abs(np.sign(gains) @ ranks)
    assert comparison.wilcoxon_p == pytest.approx(as_extreme.mean(), abs=1e-12)


def test_wilcoxon_without_any_difference_proves_nothing() -> None:
    comparison = compare({0: 3.0, 1: 5.0}, {0: 3.0, 1: 5.0})
    assert comparison is not None
    assert comparison.wilcoxon_p == 1


def test_holm_on_a_case_by_hand() -> None:
    # Sorted 0.01, 0.03, 0.04 times 3, 2, 1 is 0.03, 0.06, 0.04; never below the one before.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1, 1]
    assert holm([]) == []


def test_baseline_is_shown_to_differ_by_chance_in_at_most_one_growing_study_of_twenty() -> None:
    shown, plain = 0, 0
    for scores in np.random.default_rng(2).normal(size=(600, 2, LAST)):
        p = []
        for seeds in range(FIRST, LAST + 1):
            one, other = (dict(enumerate(row[:seeds])) for row in scores)
            comparison = compare(one, other)
            assert comparison is not None
            p.append(comparison.p)
        shown += min(holm([found], (FIRST, LAST))[0] for found in p) < 0.05
        plain += min(p) < 0.05
    assert binomtest(shown, 600, 0.05, alternative="greater").pvalue > 0.01, shown / 600
    assert plain > shown


def test_pareto_front_on_a_case_by_hand() -> None:
    points = [(3.0, 80.0), (1.0, 50.0), (2.0, 40.0), (5.0, 80.0), (4.0, 90.0), (1.0, 45.0)]
    assert pareto_front(points) == [1, 0, 4]
    assert pareto_front([*points, (4.0, 90.0)]) == [1, 0, 4, 6]
    assert pareto_front([(1.0, 50.0), (2.0, 50.0)]) == [0]  # dearer, and only as good


def test_winner_has_to_beat_every_other() -> None:
    noise = [0.1, -0.2, 0.05, 0.15, -0.1]
    table = {
        "worst": dict(enumerate(10 + np.array(noise))),
        "good": dict(enumerate(20 + np.array(noise[::-1]))),
        "best": dict(enumerate(30.0 + np.roll(noise, 2))),
    }
    [verdict] = judge([table])
    assert (verdict.best, verdict.rival, verdict.is_winner) == ("best", "good", True)
    table["tied"] = {seed: score + (-1) ** seed * 0.3 for seed, score in table["best"].items()}
    [verdict] = judge([table])
    assert not verdict.is_winner
    assert len(verdict.undecided) == 1
    assert {verdict.best, *verdict.undecided} == {"best", "tied"}


def test_lowest_wins_where_lower_is_better() -> None:
    losses = {"low": {0: 1.0, 1: 1.1, 2: 0.9, 3: 1.0, 4: 1.05}, "high": {0: 2.0, 1: 2.2, 2: 1.9, 3: 2.1, 4: 2.0}}
    [lower], [higher] = judge([losses], is_higher_better=False), judge([losses])
    assert (lower.best, lower.is_winner) == ("low", True)
    assert (higher.best, higher.is_winner) == ("high", True)


def test_best_mean_over_other_seeds_is_no_winner_where_the_shared_seeds_say_the_opposite() -> None:
    # Two runs failed, on the seeds where everyone does badly: what is left has the better mean, and loses every pair.
    luck = {0: 50.0, 1: 50.2, 2: 49.8, 3: 10.0, 4: 10.0}
    table = {
        "better": luck,
        "failed on the hard seeds": {seed: luck[seed] - 5 - 0.01 * seed for seed in (0, 1, 2)},
        "worst": {seed: score - 30 - 0.1 * seed for seed, score in luck.items()},
    }
    [verdict] = judge([table])
    assert verdict.best == "failed on the hard seeds"
    assert not verdict.is_winner
    assert (verdict.rival, verdict.p) == ("better", 1)
    assert "better" in verdict.undecided


def test_lonely_strategy_is_no_winner() -> None:
    [verdict] = judge([{"only": {0: 1.0, 1: 2.0}}])
    assert not verdict.is_winner


NOTHING = [0.0] * 6


def scores_of_studies(means: list[float], sizes: int, spreads: tuple[float, ...], studies: int) -> Iterator[np.ndarray]:
    """Scores [size, arm, seed] of studies whose arms have these means, with luck that the arms of a seed share."""
    rng = np.random.default_rng(0)
    spread = np.resize(spreads, len(means))[:, None]
    for _ in range(studies):
        luck = rng.normal(0, 2, (sizes, 1, 5))
        yield np.array(means)[None, :, None] + luck + spread * rng.normal(size=(sizes, len(means), 5))


def verdicts_on(scores: np.ndarray) -> list[Verdict]:
    return judge([{str(arm): dict(enumerate(row)) for arm, row in enumerate(table)} for table in scores])


@pytest.mark.parametrize(
    ("means", "sizes"),
    [
        ([0, 0], 1),  # two, nothing between them
        (NOTHING, 1),  # six, nothing between them
        (NOTHING, 5),  # at every size
        ([0, 0, -9, -9, -9, -9], 1),  # two tied at the top, the others far below
        ([0, 0, 0, -9, -9, -9], 5),
    ],
)
@pytest.mark.parametrize("spreads", [(1.0,), (0.2, 1.0, 3.0)], ids=["equal spreads", "different spreads"])
def test_study_without_a_winner_names_one_in_at_most_one_of_twenty(
    means: list[float], sizes: int, spreads: tuple[float, ...]
) -> None:
    studies = 1000 // sizes
    named = sum(
        any(verdict.is_winner for verdict in verdicts_on(scores))
        for scores in scores_of_studies(means, sizes, spreads, studies)
    )
    # For two the rate is 5 % exactly: what is excluded is a higher one.
    assert binomtest(named, studies, 0.05, alternative="greater").pvalue > 0.01, named / studies


@pytest.mark.parametrize("sizes", [1, 5])
def test_one_as_good_as_the_best_is_told_apart_in_at_most_one_study_of_twenty(sizes: int) -> None:
    studies = 1000 // sizes
    wrong = sum(
        any(len(verdict.undecided) < len(NOTHING) - 1 for verdict in verdicts_on(scores))
        for scores in scores_of_studies(NOTHING, sizes, (0.2, 1.0, 3.0), studies)
    )
    assert binomtest(wrong, studies, 0.05, alternative="greater").pvalue > 0.01, wrong / studies


def test_clear_winner_is_named_nearly_always() -> None:
    rng = np.random.default_rng(1)
    named = 0
    for _ in range(100):
        scores = np.array([0, 0, 8])[:, None] + rng.normal(0, 5, 5) + rng.normal(size=(3, 5))
        [verdict] = judge([{str(arm): dict(enumerate(row)) for arm, row in enumerate(scores)}])
        named += verdict.is_winner and verdict.best == "2"
    assert named > 90


@pytest.mark.parametrize(("pairs", "significance"), [(2, 0.05), (5, 0.05), (5, 0.01), (12, 0.05)])
def test_smallest_difference_is_found_in_four_of_five_studies(pairs: int, significance: float) -> None:
    difference = smallest_difference(pairs, significance)
    found = difference + np.random.default_rng(0).normal(size=(2000, pairs))
    power = int((ttest_1samp(found, 0, axis=1).pvalue < significance).sum())
    assert binomtest(power, 2000, 0.8).pvalue > 0.001, power / 2000


def test_single_pair_finds_nothing() -> None:
    assert smallest_difference(1, 0.05) == math.inf


def test_spread_of_differences_is_pooled_over_pairs_of_arms() -> None:
    # Differences 1, 3 and 0, 4 (variances 2 and 8, a degree of freedom each), and 5, 5, 5 (0, and two degrees).
    first = {"a": {0: 1.0, 1: 3.0}, "b": {0: 0.0, 1: 0.0, 7: 9.0}}
    tables = [
        first,
        {"a": {0: 0.0, 1: 4.0}, "b": {0: 0.0, 1: 0.0}},
        {"a": dict.fromkeys(range(3), 5.0), "b": dict.fromkeys(range(3), 0.0)},
    ]
    assert spread_of_differences(tables) == pytest.approx(math.sqrt((2 + 8) / 4))
    assert spread_of_differences([{"a": {0: 1.0}, "b": {0: 2.0, 1: 1.0}}]) is None


FIRST, LAST = 5, 12


def seeds_and_winner(scores: np.ndarray) -> tuple[int, str | None]:
    """The number of seeds at which a growing study stops, and the winner that it names; scores are [arm, seed]."""
    for seeds in range(FIRST, LAST + 1):
        table = {str(arm): dict(enumerate(row[:seeds])) for arm, row in enumerate(scores)}
        [verdict] = judge([table], looks=(FIRST, LAST))
        if verdict.is_winner:
            return seeds, verdict.best
    return LAST, None


@pytest.mark.parametrize(("arms", "studies"), [(2, 1000), (5, 200)])
def test_growing_study_without_a_winner_names_one_in_at_most_one_of_twenty(arms: int, studies: int) -> None:
    scores = np.random.default_rng(0).normal(size=(studies, arms, LAST))
    named = sum(seeds_and_winner(study)[1] is not None for study in scores)
    assert binomtest(named, studies, 0.05, alternative="greater").pvalue > 0.01, named / studies


def test_growing_study_needs_fewer_seeds_than_its_limit_where_there_is_a_difference() -> None:
    rng, seeds, right, fixed = np.random.default_rng(1), [], 0, 0
    for _ in range(200):
        scores = np.array([0, 2.0])[:, None] + rng.normal(size=(2, LAST))
        needed, winner = seeds_and_winner(scores)
        seeds.append(needed)
        right += winner == "1"
        [verdict] = judge([{str(arm): dict(enumerate(row)) for arm, row in enumerate(scores)}])
        fixed += verdict.is_winner
    assert np.mean(seeds) < 0.8 * LAST
    assert right > 0.9 * fixed


def test_each_look_is_stricter_the_more_there_are() -> None:
    table = {"a": {seed: 1 + 0.8 * (-1) ** seed for seed in range(6)}, "b": dict.fromkeys(range(6), 0.0)}
    p = [judge([table], looks=looks)[0].p for looks in (None, (5, 6), (5, 20))]
    assert p == sorted(p)
    assert p[0] < p[1] < p[2]
