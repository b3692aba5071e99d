"""Computes the results of a study from its finished runs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from lightning_transfer.directions import is_share
from lightning_transfer.study.cells import Arm, Cell
from lightning_transfer.study.plan import Plan
from lightning_transfer.study.sample_size import smallest_difference, spread_of_differences
from lightning_transfer.study.statistics import (
    SIGNIFICANCE,
    Comparison,
    Scores,
    Summary,
    Verdict,
    compare,
    correction,
    holm,
    judge,
    pareto_front,
    summarise,
)
from lightning_transfer.study.tuning import at_the_edge, choose, describe_edges

_OF_DATA = ("examples_per_class", "train_fraction")  # ends of names of settings that say how much to train on
Key = tuple[Arm, float | None]  # an arm at a size


@dataclass(frozen=True)
class Outcome:
    """The results of an arm at a size.

    Args:
        label: Name of the arm in the study.
        size: The size, as the study names it.
        cells: The runs, one for each seed.
        scores: Test metric of each finished run, by seed; in percent if higher is better.
        train_seconds: Training time of each finished run in seconds, by seed, without validation.
        value: The tuned value.
        edge: ``lowest`` or ``highest`` if the tuned value is that end of the list of candidates, else None.
        difference: Paired differences from the baseline; None for the baseline itself, and if no pair has finished.
        corrected_p: The p of that comparison, corrected for the number of comparisons in the study.
    """

    label: str
    size: float | None
    cells: tuple[Cell, ...]
    scores: Scores
    train_seconds: Scores
    value: Any
    edge: str | None
    difference: Comparison | None
    corrected_p: float | None

    @property
    def summary(self) -> Summary:
        """The mean score and its interval."""
        return summarise(self.scores.values())

    @property
    def seconds(self) -> float:
        """The mean training time in seconds."""
        return fmean(self.train_seconds.values())


class Outcomes:
    """The results of all arms at all sizes, as far as their runs have finished.

    Args:
        plan: The plan of the study.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.tuning = plan.tuning()
        self.choices = choose(plan.study, self.tuning)
        self.cells = plan.final()
        self.results = {cell: result for cell in self.cells if (result := cell.result) is not None}
        self.table = self._build()

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self.table.values())

    def at(self, size: float | None) -> list[Outcome]:
        """Lists the outcomes at a size that have a finished run."""
        return [outcome for outcome in self if outcome.size == size and outcome.scores]

    @property
    def sizes(self) -> list[float | None]:
        """The sizes that have a finished run."""
        return [size for size in self.plan.study.sizes if self.at(size)]

    def train_examples(self, size: float | None) -> int | None:
        """Returns the number of training examples at a size, or None if no run has recorded it."""
        facts = (result["data"] or {} for cell, result in self.results.items() if cell.size == size)
        return next((data["train_examples"] for data in facts if "train_examples" in data), None)

    @property
    def are_sizes_of_data(self) -> bool:
        """Whether the sizes say how much there is to train on, and not another setting (model.target_epsilon)."""
        key = self.plan.study.size_key or _OF_DATA[0]
        counts = [self.train_examples(size) for size in self.sizes]
        return key.endswith(_OF_DATA) or (key.startswith("data.") and len(set(counts)) == len(counts) > 1)

    def verdicts(self) -> dict[float | None, Verdict]:
        """Judges which arm is best at each size."""
        tables = self._tables()
        found = judge(tables, self.plan.study.is_higher_better, self.plan.looks)
        return dict(zip(self.sizes, found, strict=True))

    @property
    def is_decided(self) -> bool:
        """Whether each size has a winner, or nothing to compare."""
        verdicts = self.verdicts().values()
        return all(verdict.is_winner or verdict.rival is None for verdict in verdicts)

    def smallest_difference(self) -> tuple[float, float | None]:
        """Computes which difference the study would find in four of five cases, with all its seeds.

        Returns:
            The difference between two arms at a size, in standard deviations of the differences of pairs; and in the
            unit of the scores, by the spread seen so far, or None if no two arms share two finished seeds.
        """
        plan = self.plan
        pairs = plan.looks[1] if plan.looks else len(plan.seeds)
        tests = correction(len(plan.study.sizes), plan.looks)
        difference = smallest_difference(pairs, SIGNIFICANCE / tests)
        spread = spread_of_differences(self._tables())
        return difference, None if spread is None else difference * spread

    def edges(self) -> str | None:
        """Names in a line the arms whose tuned value is an end of the list of candidates; None if there are none."""
        return describe_edges(self.plan, self.choices)

    def pareto_front(self, size: float | None) -> list[str]:
        """Lists the labels of the arms at a size that no other arm beats in both training time and score."""
        found, sign = self.at(size), 1 if self.plan.study.is_higher_better else -1
        return [found[place].label for place in pareto_front([(o.seconds, sign * o.summary.mean) for o in found])]

    @property
    def uncompared(self) -> list[str]:
        """The labels of the arms without a baseline: they take no starting weights, but the baseline does."""
        plan = self.plan
        others = [arm for arm in plan.arms if arm.strategy != plan.study.baseline]
        return [plan.label(arm) for arm in others if plan.baseline(arm) is None]

    def _tables(self) -> list[dict[str, Scores]]:
        return [{outcome.label: outcome.scores for outcome in self.at(size)} for size in self.sizes]

    def _build(self) -> dict[Key, Outcome]:
        study, plan = self.plan.study, self.plan
        keys: list[Key] = [(arm, size) for size in study.sizes for arm in plan.arms]
        cells: dict[Key, list[Cell]] = {key: [] for key in keys}
        for cell in self.cells:
            assert cell.arm is not None
            cells[cell.arm, cell.size].append(cell)
        factor = 100 if is_share(study.metric) else 1
        scores = {key: self._read(cells[key], lambda cell: factor * cell.score(study.metric)) for key in keys}
        differences = self._differences(keys, scores)
        corrected = dict(zip(differences, holm([d.p for d in differences.values()], plan.looks), strict=True))
        edges = at_the_edge(study, self.choices)
        return {
            (arm, size): Outcome(
                plan.label(arm),
                size,
                tuple(cells[arm, size]),
                scores[arm, size],
                self._read(cells[arm, size], lambda cell: self.results[cell]["train_seconds"]),
                self.choices.get((arm, size)),
                edges.get((arm, size)),
                differences.get((arm, size)),
                corrected.get((arm, size)),
            )
            for arm, size in keys
        }

    def _read(self, cells: list[Cell], value: Callable[[Cell], float]) -> dict[int, float]:
        return {cell.seed: value(cell) for cell in cells if cell in self.results}

    def _differences(self, keys: list[Key], scores: dict[Key, dict[int, float]]) -> dict[Key, Comparison]:
        baselines = {arm: self.plan.baseline(arm) for arm, _ in keys}
        found = {
            (arm, size): compare(scores[arm, size], scores[baseline, size])
            for arm, size in keys
            if (baseline := baselines[arm]) is not None
        }
        return {key: comparison for key, comparison in found.items() if comparison is not None}
