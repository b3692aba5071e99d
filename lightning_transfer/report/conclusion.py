"""Says in one sentence what runs of one task have shown on the test split, and how surely."""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

from lightning_transfer.study.statistics import CONFIDENCE, Scores, Verdict, judge, summarise

Record = dict[str, Any]


def conclusion(
    records: Mapping[str, Sequence[Record]], metric: str, is_higher_better: bool, baseline: str | None = None
) -> str:
    """Compares strategies by their results on the test split.

    Where each has one run, the best is compared with the baseline, or with the next best where there is none or it is
    the best. The interval is then one of the test examples: another seed may give another result. Where strategies
    have several runs, they are compared by pairs of the same seed, as a study does.

    Args:
        records: The records of the runs of each strategy. Those without the metric do not count.
        metric: Name of the metric after ``test/``.
        is_higher_better: Whether a higher value is better; otherwise a lower one is.
        baseline: Name of a strategy.

    Returns:
        One sentence without its stop, with its 95 % interval and n; empty where no run has the metric.
    """
    key = f"test/{metric}"
    tested = {name: [run for run in runs if key in (run.get("test") or {})] for name, runs in records.items()}
    tested = {name: runs for name, runs in tested.items() if runs}
    scores = {
        name: {_seed(run, place): run["test"][key] for place, run in enumerate(runs)} for name, runs in tested.items()
    }
    if not scores:
        return ""
    values = [value for of_one in scores.values() for value in of_one.values()]
    words = _Words(metric, is_share=is_higher_better and max(map(abs, values)) <= 1)
    examples = _common([(run.get("data") or {}).get("test_examples") for runs in tested.values() for run in runs])
    if len(scores) == 1:
        [(name, of_one)] = scores.items()
        return words.level(name, of_one, examples)
    if any(len(of_one) > 1 for of_one in scores.values()):
        [verdict] = judge([scores], is_higher_better)
        return words.verdict(verdict, 1 if is_higher_better else -1)
    singles = {name: next(iter(of_one.values())) for name, of_one in scores.items()}
    best, *others = sorted(singles, key=singles.__getitem__, reverse=is_higher_better)
    other = baseline if baseline in others else others[0]
    return words.difference(best, other, singles, examples, len(others))


class _Words:
    """Words values of a metric: shares in percent and points, others as they are."""

    def __init__(self, metric: str, is_share: bool) -> None:
        self._metric, self._is_share = metric, is_share
        self._unit = f"points of {metric}" if is_share else f"in {metric}"

    def _number(self, value: float) -> str:
        return f"{100 * value:.1f}" if self._is_share else f"{value:.4g}"

    def level(self, name: str, scores: Scores, examples: int | None) -> str:
        """Says what a single strategy reaches."""
        summary = summarise(scores.values())
        reached = f"{name} reaches {self._number(summary.mean)}{' %' if self._is_share else ''} test {self._metric}"
        low, high, over = summary.low, summary.high, f"n={summary.n} seeds"
        if summary.n == 1:
            if not (self._is_share and examples):
                return f"{reached} (n=1 run)"
            low, high = share_interval(summary.mean, examples)
            over = f"{examples:,} test examples; n=1 run"
        if self._is_share:
            low, high = max(0.0, low), min(1.0, high)  # that of few seeds may be wider than what is possible
        return f"{reached} (95 % interval {self._number(low)} to {self._number(high)} over {over})"

    def difference(self, best: str, other: str, values: Mapping[str, float], examples: int | None, rivals: int) -> str:
        """Compares two runs; the interval is wide enough for the best of several rivals (Bonferroni)."""
        on = f"on {examples:,} test examples" if examples else "on the test split"
        lead = abs(values[best] - values[other])
        if not lead:
            return f"{best} and {other} are equal {on} (n=1 run each)"
        if not (self._is_share and examples):
            return f"{best} beats {other} by {self._number(lead)} {self._unit} {on} (n=1 run each)"
        # Both saw the same examples, which makes the interval narrower than this; how much is in no record.
        deviation = math.sqrt(sum(values[name] * (1 - values[name]) / examples for name in (best, other)))
        half = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2 / rivals) * deviation
        by = f"{self._number(lead)} ± {self._number(half)} {self._unit}"
        how = f"{on} (95 % interval over the examples; n=1 run each)"
        if lead <= half:
            return f"No difference shown between {best} and {other}: {by} {how}"
        return f"{best} beats {other} by {by} {how}"

    def verdict(self, verdict: Verdict, sign: int) -> str:
        """Says which strategy wins by pairs of seeds, or that none does; the sign is -1 where lower is better."""
        if verdict.comparison is None:
            return f"No difference shown: {verdict.best} has the best mean, but shares no seed with {verdict.rival}"
        difference = verdict.comparison.difference
        by = self._number(sign * difference.mean)
        if difference.n > 1:
            by += f" ± {self._number(difference.high - difference.mean)}"
        pairs = f"95 % interval over n={difference.n} pairs of seeds" if difference.n > 1 else "n=1 pair of seeds"
        how = f"{by} {self._unit} ({pairs})"
        if verdict.is_winner:
            return f"{verdict.best} beats {verdict.rival}, its closest rival, by {how}"
        between = listed(sorted((verdict.best, *verdict.undecided)))
        return f"No difference shown between {between}: {verdict.best} leads {verdict.rival} by {how}"


def share_interval(share: float, n: int) -> tuple[float, float]:
    """Computes the 95 % interval of a share of n independent examples.

    Source:
        Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    middle = (share + z * z / 2 / n) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / 4 / n / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def _seed(run: Record, place: int) -> int:
    # Runs without a seed are no pairs of others.
    seed: int | None = run.get("seed")
    return -1 - place if seed is None else seed


def _common(values: Sequence[Any]) -> Any:
    return values[0] if len(set(values)) == 1 else None


def listed(items: Sequence[str]) -> str:
    """Writes items as words: ``a, b and c``."""
    return f"{', '.join(items[:-1])} and {items[-1]}" if items[1:] else "".join(items)
