"""Chooses the learning rate, or another value, by the validation of the tuning runs."""

import math
from collections.abc import Iterable
from statistics import fmean
from typing import Any

from lightning_transfer.study.cells import Arm, Cell
from lightning_transfer.study.config import Study
from lightning_transfer.study.plan import Choices, Plan

Scores = dict[tuple[Arm, float | None], dict[str, tuple[float, float, Any]]]


def choose(study: Study, cells: Iterable[Cell]) -> Choices:
    """Chooses the value with the best mean validation metric for each arm at each size.

    The validation loss breaks ties. A candidate is excluded if one of its runs failed, for example because it diverged.

    Args:
        study: The study.
        cells: Its tuning cells, finished or not.

    Returns:
        The choices. An arm has none at a size where no candidate has finished all its runs.
    """
    best = {key: max(scores.values(), key=lambda score: score[:2])[2] for key, scores in _scores(study, cells).items()}
    choices = {}
    for arm in {arm for arm, _ in best}:
        tuned = [size for size in study.sizes if (arm, size) in best]
        for size in study.sizes:
            # A size that is not tuned takes the choice of the nearest in the list; a tuned one takes only its own.
            is_tuned = study.tuning is not None and size in (study.tuning.sizes or study.sizes)
            near = [size] if is_tuned else sorted(tuned, key=lambda other: _distance(study, size, other))
            if near and near[0] in tuned:
                choices[arm, size] = best[arm, near[0]]
    return choices


def at_the_edge(study: Study, choices: Choices) -> dict[tuple[Arm, float | None], str]:
    """Finds choices that are the lowest or the highest candidate, since a better value may lie beyond."""
    numbers = [value for value in (study.tuning.values if study.tuning else []) if isinstance(value, (int, float))]
    if len(numbers) < 2:
        return {}
    edges = {min(numbers): "lowest", max(numbers): "highest"}
    return {key: edges[value] for key, value in choices.items() if value in edges}


def describe_edges(plan: Plan, choices: Choices) -> str | None:
    """Names in a line the arms whose choice is an end of the list of candidates; None if there are none."""
    study = plan.study
    found: dict[str, dict[str, list[str]]] = {}
    for (arm, size), edge in at_the_edge(study, choices).items():
        if study.tuning and size in (study.tuning.sizes or study.sizes):
            found.setdefault(edge, {}).setdefault(plan.label(arm), []).append("all" if size is None else str(size))
    parts = [
        f"the {edge} of {study.tuning.values if study.tuning else []} was chosen by "
        + ", ".join(f"{label} (size {', '.join(sizes)})" for label, sizes in labels.items())
        for edge, labels in found.items()
    ]
    return f"{'; '.join(parts)}: a better value may lie beyond it." if parts else None


def _scores(study: Study, cells: Iterable[Cell]) -> Scores:
    """Scores each candidate that has all its runs: by its mean validation metric, then its mean loss; high is good."""
    sign = 1 if study.is_higher_better else -1
    runs: dict[tuple[Arm, float | None], dict[str, list[Cell]]] = {}
    for cell in cells:
        assert cell.arm is not None
        runs.setdefault((cell.arm, cell.size), {}).setdefault(repr(cell.value), []).append(cell)
    scores: Scores = {}
    for key, candidates in runs.items():
        for name, candidate in candidates.items():
            results = [result["validation"] for cell in candidate if (result := cell.result) is not None]
            if len(results) < len(candidate):
                continue
            metric = fmean(cell.score(study.metric) for cell in candidate)
            loss = fmean(result.get("val/loss", 0.0) for result in results)
            if math.isfinite(metric):
                scores.setdefault(key, {})[name] = (sign * metric, -loss, candidate[0].value)
    return scores


def _distance(study: Study, size: float | None, other: float | None) -> int:
    return abs(study.sizes.index(size) - study.sizes.index(other))
