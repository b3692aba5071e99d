"""Sets damaged records of a study aside, so that each costs its own run and no other."""

import math
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from lightning_transfer.errors import UserError
from lightning_transfer.files import read_json
from lightning_transfer.report.expected_content import Facts, Number, expected
from lightning_transfer.study.cells import FAILURE, RESULTS, VALIDATED, Cell


class _Versions(TypedDict):
    """The version that the report of a study names."""

    torch: str


class _SharedFeatures(TypedDict):
    """What a run says of the features that it has shared."""

    computed: Number
    taken: Number
    computed_seconds: Number
    saved_seconds: Number


class _Privacy(TypedDict):
    """What a private run has cost."""

    epsilon: Number
    delta: Number


class _Record(TypedDict):
    """What a study reads in the record of a run."""

    validation: dict[str, Number] | None
    test: dict[str, Number] | None
    data: Facts | None
    fit_seconds: float
    train_seconds: float
    device: str | None
    commit: str | None
    versions: _Versions
    privacy: NotRequired[_Privacy | None]
    shared_features: NotRequired[_SharedFeatures | None]
    soup: NotRequired[list[str]]


class _Failure(TypedDict):
    """The record of a failure."""

    error: str


_KINDS: dict[str, Any] = {RESULTS: _Record, FAILURE: _Failure, VALIDATED: dict[str, dict[str, Number]]}


def set_aside_damaged(folder: Path, metric: str) -> None:
    """Renames each damaged record below the folder of a study, and says so in a line. Its run then goes on.

    The file that holds a run's settings is not renamed: without it, results of other settings could be mixed.

    Args:
        folder: The folder of the study.
        metric: Name of the metric that is compared.
    """
    for file in sorted(folder.glob("*/*.json")):
        if file.name in _KINDS and (problem := _problem(file, metric)):
            aside = _set_aside(file)
            print(f"{problem}: it is now {aside.name}, and its run goes on without it", flush=True)


def fail_without_number(cell: Cell, metric: str) -> None:
    """Takes a finished run for failed if its metric is no number, and sets its record aside.

    Args:
        cell: The run.
        metric: Name of the metric that is compared.
    """
    if wrong := _without_number(cell.result or {}, metric):
        name, value = wrong
        cell.fail(f"{name} is {value}: expected a number")
        _set_aside(cell.folder / RESULTS)


def _set_aside(file: Path) -> Path:
    return file.replace(file.with_name(f"{file.name}.damaged"))


def _without_number(record: dict[str, Any], metric: str) -> tuple[str, Any] | None:
    """Finds the metric of a record's validation or test that is no finite number, with what it is."""
    for split, name in {"validation": f"val/{metric}", "test": f"test/{metric}"}.items():
        logged = record.get(split) or {}
        value = logged.get(name, 0.0) if isinstance(logged, dict) else None
        if not _is_number(value):
            return name, value
    return None


def _problem(file: Path, metric: str) -> str | None:
    try:
        content = read_json(file)
    except UserError as error:
        return str(error).partition(";")[0]
    if file.name == VALIDATED and not all(map(_is_number, content)):
        return f"{file} has a share that is no number"
    if file.name == RESULTS and (found := _without_number(content, metric)):
        return f"{file} has no number as {found[0]}"
    wrong: list[str] = []
    expected(content, _KINDS[file.name], str(file), wrong)
    return wrong[0] if wrong else None


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))
    except (TypeError, ValueError):
        return False
