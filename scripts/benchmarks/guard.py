"""Compares the ratios of a run with those of an earlier one. Seconds differ from machine to machine, ratios hardly."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import RATIO, Row

WORSE = 1.1  # a ratio that is more than this times the stored one
Parts = Mapping[str, Mapping[str, Any]]  # the name of a part -> its rows, as the results file has them


def stored_parts(file: Path, quick: bool, accelerator: str = "cpu") -> dict[str, Any]:
    """Reads the parts of an earlier results file.

    Args:
        file: The file.
        quick: Whether this run measures the quick sizes.
        accelerator: Where this run trains.

    Raises:
        ValueError: If the file has no results, or measured other sizes or on another accelerator.
    """
    try:
        stored = json.loads(file.read_text())
        parts, stored_quick = dict(stored["parts"]), stored["settings"]["quick"]
        stored_accelerator = stored["settings"].get("accelerator", "cpu")  # files before the option lack it
        ratios(parts)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"--compare is {file}: expected a file that --json wrote ({error!r})") from error
    if stored_quick != quick:
        raise ValueError(
            f"--compare is {file}, measured with{'' if stored_quick else 'out'} --quick: expected the same"
        )
    if stored_accelerator != accelerator:
        raise ValueError(
            f"--compare is {file}, measured with --accelerator {stored_accelerator}: expected {accelerator}, as here"
        )
    return parts


def ratios(parts: Parts) -> dict[str, float]:
    """Finds the ratios by part and candidate, without the 1 of the candidates that come first."""
    return {
        f"{name}: {', '.join(cell for cell in row.values() if isinstance(cell, str))}": float(row[RATIO])
        for name, part in parts.items()
        for row in part["rows"]
        if row.get(RATIO, 1.0) != 1.0
    }


def compared(found: Parts, stored: Parts) -> list[Row]:
    """Puts each ratio beside the stored one. A stored one that a part no longer gives is missing."""
    now, before = ratios(found), ratios({name: part for name, part in stored.items() if name in found})
    rows: list[Row] = []
    for key in {**before, **now}:
        row: Row = {"ratio": key, "stored": before.get(key, "-"), "now": now.get(key, "-"), "change, %": "-"}
        verdict = "missing" if key not in now else "not stored"
        if key in now and key in before:
            row["change, %"] = 100 * (now[key] / before[key] - 1)
            verdict = "worse" if now[key] > WORSE * before[key] else ""
        rows.append({**row, "verdict": verdict})
    return rows


def failed(rows: Iterable[Row]) -> list[int]:
    """Finds the places of the rows with a ratio that is worse or missing."""
    return [place for place, row in enumerate(rows) if row["verdict"] in ("worse", "missing")]
