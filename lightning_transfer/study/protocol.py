"""Writes how a study was asked: its pairs, its choices, its level, and what its seeds can show."""

import math
from collections.abc import Iterator
from typing import Any

from lightning_transfer.report.conclusion import listed
from lightning_transfer.report.document import Block, Bullets, Heading
from lightning_transfer.study.outcomes import Outcomes
from lightning_transfer.study.protocol_notes import privacy, shared_features, soups
from lightning_transfer.study.units import unit_of


def protocol(outcomes: Outcomes, command: str) -> Iterator[Block]:
    """Writes how the study was asked, and which runs failed.

    Args:
        outcomes: Results of the study so far; at least one run has finished.
        command: The command line that repeats the study.

    Yields:
        The parts of a document.
    """
    study, results = outcomes.plan.study, list(outcomes.results.values())
    facts = [result["data"] or {} for result in results]
    yield Heading("How it was asked")
    validation = sorted({data["validation_examples"] for data in facts if "validation_examples" in data})
    held_out = f" ({listed([f'{count:,}' for count in validation])} examples)" if validation else ""
    items = [
        f"Command: `{command}`",
        f"Seeds {listed(list(map(str, outcomes.plan.seeds)))} set {listed([f'`{key}`' for key in study.seed_keys])}, "
        f"the same for all strategies.{_parts(outcomes)}",
        f"{'Checkpoints and tuned values' if study.tuning else 'Checkpoints'} were chosen on a hold-out of the "
        f"training split{held_out}, the same for all; each run read the test split once, at its end.",
        f"{_level(outcomes)}{_looks(outcomes)}",
        f"{what_seeds_show(outcomes)}.",
        f"Machine: {listed(_distinct(results, 'device'))}. Source: commit {listed(_distinct(results, 'commit'))}. "
        f"torch {listed(sorted({result['versions']['torch'] for result in results}))}.",
    ]
    fingerprints = {str(data.get("fingerprints")) for data in facts}
    if len(fingerprints) > 1:
        items.append(f"**The data changed during the study**: {len(fingerprints)} different fingerprints.")
    if shared := max((data.get("test_examples_in_training_split") or 0 for data in facts), default=0):
        items.append(f"**{shared:,} examples of the test split are in the training split too.**")
    items += [*shared_features(outcomes), *soups(outcomes), *privacy(outcomes)]
    yield Bullets(items)
    failures = [f"`{cell.name}`: {cell.failure}" for cell in [*outcomes.tuning, *outcomes.cells] if cell.failure]
    if failures:
        yield Heading("Failed runs")
        yield Bullets(failures)


def what_seeds_show(outcomes: Outcomes) -> str:
    """Says in one sentence how small a difference the seeds of the study can show."""
    unit, seeds = unit_of(outcomes.plan.study), len(outcomes.plan.seeds)
    looks = outcomes.plan.looks
    number = f"{seeds} seed{'s' if seeds > 1 else ''}" if looks is None else f"{looks[0]} to {looks[1]} seeds"
    deviations, difference = outcomes.smallest_difference()
    if not math.isfinite(deviations):
        return f"{number} can show no difference: a paired test needs two or more"
    found = f"a difference of {deviations:.1f} standard deviations of the differences between pairs"
    if difference is not None:
        found = f"a difference of {difference:.{unit.decimals}f} {unit.of_differences}, by the spread of pairs so far"
    return f"{number} show {found}, or a larger one, in four of five such studies"


def _level(outcomes: Outcomes) -> str:
    """Says at which level a winner is named, and who is told apart from the best."""
    sizes = len(outcomes.sizes)
    divided, any_size, of_sizes = (f" divided by the {sizes} sizes", ", at any size,", " of all sizes")
    if sizes == 1:
        divided = any_size = of_sizes = ""
    return (
        f"A winner has to beat every other strategy of its size in a paired t test, at 0.05{divided}: a wrong winner is"
        f" named{any_size} in at most one study of twenty. Told apart from the best is who is worse at 0.05 divided by"
        f" the number of all pairs{of_sizes}."
    )


def _parts(outcomes: Outcomes) -> str:
    if len(outcomes.sizes) < 2 or not outcomes.are_sizes_of_data:
        return ""
    return " At one seed the smaller training sets are parts of the larger ones."


def _looks(outcomes: Outcomes) -> str:
    looks = outcomes.plan.looks
    if looks is None:
        return ""
    return (
        f" Seeds were added until each size had a winner, from {looks[0]} up to {looks[1]}. Each look has the level"
        " with which all looks together keep these chances (Pocock's design)."
    )


def _distinct(results: list[dict[str, Any]], key: str) -> list[str]:
    return sorted({str(result[key] or "unknown") for result in results})
