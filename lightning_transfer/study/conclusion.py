"""Says in one sentence how the strategies of one seed compare on the test split."""

from collections.abc import Mapping
from typing import Any

from lightning_transfer.study.config import Study

Record = dict[str, Any]


def conclusion(results: Mapping[str, Record], study: Study) -> str:
    """Compares the best strategy with the baseline of the study, or with the next best where the baseline is best.

    Args:
        results: The record of one run for each strategy.
        study: The study, with its metric and its baseline.

    Returns:
        One sentence without its stop, with the number of test examples where it is known; empty where fewer than two
        runs have the metric. There is no interval, because there is one run of each.
    """
    key = f"test/{study.metric}"
    values = {name: record["test"][key] for name, record in results.items() if key in (record["test"] or {})}
    if len(values) < 2:
        return ""
    best, *others = sorted(values, key=values.__getitem__, reverse=study.is_higher_better)
    other = study.baseline if study.baseline in others else others[0]
    examples = (results[best].get("data") or {}).get("test_examples")
    on = f"on {examples:,} test examples (one run each)" if examples else "on the test split (one run each)"
    difference = abs(values[best] - values[other])
    if not difference:
        return f"{best} and {other} are equal {on}"
    if study.is_higher_better and max(map(abs, values.values())) <= 1:
        return f"{best} beats {other} by {100 * difference:.1f} points of {study.metric} {on}"
    return f"{best} beats {other} by {difference:.4g} in {study.metric} {on}"
