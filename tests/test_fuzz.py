"""The fuzzing of configs, without running many: what it changes, and what it takes for a fault."""

import runpy
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY

SCRIPT: dict[str, Any] = runpy.run_path(str(REPOSITORY / "scripts" / "fuzz"))
REFUSAL = "lightning-transfer: error: data.batch_size is 0: expected 1 or more"
TRACEBACK = "Traceback (most recent call last):\nKeyError: 'place'"


def test_changes_are_made_in_a_copy_and_said() -> None:
    config = {"data": {"path": "images", "batch_size": 8}}
    made = [(0.4, "value", -1), (0.99, "remove", None), (0, "stranger", "x")]
    found, said = SCRIPT["changed"](config, [SCRIPT["Change"](*change) for change in made])
    assert found == {"data": {"path": -1}, "datax": "x"}
    assert said == ["value data.path = -1", "remove data.batch_size", "stranger data = 'x'"]
    assert config == {"data": {"path": "images", "batch_size": 8}}


@pytest.mark.parametrize(
    ("status", "output", "beside", "kind"),
    [
        (0, "", set(), "trained"),
        (2, f"a warning\n{REFUSAL}", set(), "refused"),
        (2, f"{REFUSAL}\n{REFUSAL}", set(), "status 2"),
        (2, "usage: ...", set(), "status 2"),
        (2, TRACEBACK, set(), "traceback"),
        (0, TRACEBACK, set(), "traceback"),
        (-9, "", set(), "status -9"),
        (None, "", set(), "more than a minute"),
        (0, "", {"escaped"}, "file beside the logs"),
    ],
)
def test_case_is_in_order_only_where_it_trains_or_is_refused_in_one_line(
    status: int | None, output: str, beside: set[str], kind: str
) -> None:
    assert SCRIPT["judged"](status, output, beside).kind == kind


def test_case_runs_in_a_process_and_a_folder_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def leave_a_file(arguments: list[str]) -> None:
        Path("escaped").touch()

    here = {*Path().iterdir()}
    with capfd.disabled():  # the case writes to its own file
        kind, words = SCRIPT["run_case"]({"trainer": 2})
    assert (kind, words[:46]) == ("refused", "lightning-transfer: error: trainer is 2: expec")
    monkeypatch.setattr("lightning_transfer.cli.entry.main", leave_a_file)
    assert SCRIPT["run_case"]({}) == ("file beside the logs", "escaped")
    assert {*Path().iterdir()} == here
