"""Makes the record of a soup that is left as a finished run, from the records of its runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from lightning_transfer.errors import UserError
from lightning_transfer.files import read_json
from lightning_transfer.report.expected_content import Number, expected
from lightning_transfer.run.reading import LAST
from lightning_transfer.run.record import source_commit, versions


class _Facts(TypedDict, total=False):
    """What a run knows of its data."""

    fingerprints: dict[str, Any]


class _Record(TypedDict):
    """What a soup reads in the record of a run."""

    fit_seconds: Number
    train_seconds: Number
    data: NotRequired[_Facts | None]


def records_of(runs: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """Reads the records of runs.

    Raises:
        UserError: For a damaged record.
    """
    return {run: _record_of(run) for run in runs}


def refuse_other_run(folder: Path) -> None:
    """Refuses a folder with a run that is no soup. A soup may be there: that of a study which was stopped.

    Raises:
        UserError: If there is another run.
    """
    record = folder / "results.json"
    is_trained = (folder / "checkpoints" / LAST).exists()
    if is_trained or (record.exists() and "soup" not in read_json(record)):
        raise UserError(f"--run_folder is {folder}, which holds a run already: expected another folder")


def record_of_soup(
    records: Sequence[Mapping[str, Any]], validation: Mapping[str, float], test: Mapping[str, float], facts: Any
) -> dict[str, Any]:
    """Puts the record of a soup together: that of its first run, with its own metrics and the seconds of all its runs.

    Args:
        records: Those of the runs that went in.
        validation: The soup's metrics on the validation split, without the name of the split.
        test: Likewise, on the test split.
        facts: What the data says of itself once the test split is read; None if it says nothing.
    """
    seconds = {name: sum(record[name] for record in records) for name in ("fit_seconds", "train_seconds")}
    data = records[0].get("data")
    if data is not None and facts:
        of_test = {name: fact for name, fact in facts.items() if name.startswith("test")}
        fingerprints = {**data.get("fingerprints", {}), **facts.get("fingerprints", {})}
        data = {**data, **of_test, "fingerprints": fingerprints}
    return {
        **records[0],
        "validation": {f"val/{name}": value for name, value in validation.items()},
        "test": {f"test/{name}": value for name, value in test.items()},
        "validations": [],
        **dict.fromkeys(("unfreezing", "interpolation", "shared_features")),
        **seconds,
        "data": data,
        "commit": source_commit(),
        "versions": versions(),
    }


def _record_of(run: Path) -> dict[str, Any]:
    file, wrong = run / "results.json", list[str]()
    record: dict[str, Any] | None = expected(read_json(file), _Record, str(file), wrong)
    if record is None:
        raise UserError(f"{wrong[0]}: expected the record of a finished run, leave this one out")
    return record
