"""Chooses the learning rate, or another value, by the validation of the tuning runs."""

from collections.abc import Iterable, Mapping, Sequence

from lightning_transfer.study.candidates import Candidate, Key, ranked
from lightning_transfer.study.cells import Arm, Cell
from lightning_transfer.study.config import Study
from lightning_transfer.study.halving import in_rung, rungs
from lightning_transfer.study.plan import Choices, Plan


def choose(study: Study, cells: Iterable[Cell]) -> Choices:
    """Chooses the value with the best mean validation metric for each arm at each size.

    The validation loss breaks ties. A candidate is excluded if one of its runs failed, for example because it diverged.
    With halving, those that are left at the end are compared.

    Args:
        study: The study.
        cells: Its tuning cells, finished or not.

    Returns:
        The choices. An arm has none at a size where a run has not ended, or none has finished.
    """
    found: Choices = {}
    cells = list(cells)
    by_rung = [ranked(study, in_rung(study, cells, number)) for number in range(len(rungs(study)))]
    for key in by_rung[0]:
        if winner := _winner(by_rung, key):
            found[key] = winner.value
    choices: Choices = {}
    tuned = sorted(study.tuned_sizes, key=study.sizes.index)
    for arm in dict.fromkeys(arm for arm, _ in found):
        for size in study.sizes:
            # A size that is not tuned takes the choice of the nearest in the list, and waits for that.
            nearest = min(tuned, key=lambda other: _distance(study, size, other))
            if (arm, nearest) in found:
                choices[arm, size] = found[arm, nearest]
    return choices


def _winner(by_rung: Sequence[Mapping[Key, list[Candidate]]], key: Key) -> Candidate | None:
    """Finds the best candidate by the last rung; by one before where all that came so far have failed."""
    reached: list[list[Candidate]] = []
    for rung in by_rung:
        if key not in rung and (not reached or reached[-1]):  # it is not over
            return None
        reached.append(rung.get(key, []))
    sound = (candidate for rivals in reversed(reached) for candidate in rivals if not candidate.has_failed)
    return next(sound, None)


def at_the_edge(study: Study, choices: Choices) -> dict[tuple[Arm, float | None], str]:
    """Finds choices of tuned sizes that are the lowest or the highest candidate: a better value may lie beyond."""
    values = study.tuning.values if study.tuning else []
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < 2:
        return {}
    edges = {min(numbers): "lowest", max(numbers): "highest"}
    tuned = {key: value for key, value in choices.items() if key[1] in study.tuned_sizes}
    return {key: edges[value] for key, value in tuned.items() if value in numbers and value in edges}


def describe_edges(plan: Plan, choices: Choices) -> str | None:
    """Names in a line the arms whose choice is an end of the list of candidates; None if there are none."""
    study = plan.study
    found: dict[str, dict[str, list[str]]] = {}
    for (arm, size), edge in at_the_edge(study, choices).items():
        found.setdefault(edge, {}).setdefault(plan.label(arm), []).append("all" if size is None else str(size))
    parts = [
        f"the {edge} of {study.tuning.values if study.tuning else []} was chosen by "
        + ", ".join(f"{label} (size {', '.join(sizes)})" for label, sizes in labels.items())
        for edge, labels in found.items()
    ]
    return f"{'; '.join(parts)}: a better value may lie beyond it." if parts else None


def _distance(study: Study, size: float | None, other: float | None) -> int:
    return abs(study.sizes.index(size) - study.sizes.index(other))
