"""Writes the tables of a report in CSV: a row for each run, and a row for each arm at each size."""

import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning_transfer.files import replacing
from lightning_transfer.study.cells import Cell
from lightning_transfer.study.outcomes import Outcome, Outcomes
from lightning_transfer.study.plan import Choices


def cell_row(cell: Cell, choices: Choices) -> dict[str, Any]:
    """Builds the row of a run. Its value is the candidate of a tuning run, or the choice for a final run."""
    result, arm = cell.result, cell.arm
    assert arm is not None
    value = cell.value if cell.kind == "tuning" else choices.get((arm, cell.size))
    row: dict[str, Any] = {
        "kind": cell.kind,
        "strategy": arm.strategy,
        "weights": arm.weights or "",
        **dict(arm.variant),
        "size": cell.size if cell.size is not None else "all",
        "seed": cell.seed,
        "value": value if value is not None else "",
    }
    if result is None and cell.validated and not cell.failure:
        share = max(cell.validated)
        return {**row, "status": "stopped", "trained_share": share, **cell.validated[share]}
    if result is None:
        return {**row, "status": "failed" if cell.failure else "not run", "error": cell.failure or ""}
    metrics = {**(result["validation"] or {}), **(result["test"] or {})}
    seconds = {key: result[key] for key in ("fit_seconds", "train_seconds")}
    privacy = {name: value for name, value in (result.get("privacy") or {}).items() if name in ("epsilon", "delta")}
    return {**row, "status": "finished", **metrics, **seconds, **privacy, "commit": result["commit"]}


def summary_row(outcomes: Outcomes, outcome: Outcome) -> dict[str, Any]:
    """Builds the row of an arm at a size."""
    finished, failed, planned = counts(outcome.cells)
    row: dict[str, Any] = {"arm": outcome.label, "size": outcome.size if outcome.size is not None else "all"}
    row |= {"planned": planned, "finished": finished, "failed": failed}
    if not outcome.scores:
        return row
    row |= {"train_examples": outcomes.train_examples(outcome.size), "value": outcome.value, "edge": outcome.edge}
    row |= {"mean": outcome.summary.mean, "low": outcome.summary.low, "high": outcome.summary.high}
    row |= {"train_seconds": outcome.seconds, "pareto": outcome.label in outcomes.pareto_front(outcome.size)}
    if outcome.difference is not None:
        difference = outcome.difference.difference
        row |= {"difference": difference.mean, "difference_low": difference.low, "difference_high": difference.high}
        row |= {
            "p": outcome.difference.p,
            "p_corrected": outcome.corrected_p,
            "p_wilcoxon": outcome.difference.wilcoxon_p,
        }
    return row


def write_csv(file: Path, rows: list[dict[str, Any]]) -> None:
    """Writes rows, with columns in the order of their first appearance."""
    with replacing(file) as partial, partial.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


def counts(cells: Iterable[Cell]) -> tuple[int, int, int]:
    """Counts the finished runs, the failed runs and all runs."""
    found = Counter("finished" if cell.is_finished else "failed" if cell.failure else "not run" for cell in cells)
    return found["finished"], found["failed"], found.total()
