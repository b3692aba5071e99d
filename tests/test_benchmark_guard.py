"""The benchmark's guard compares ratios, never seconds, and says which are worse than the stored ones."""

import importlib
import json
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "benchmark"
STORED = SCRIPT.parent / "benchmarks" / "stored.json"
RATIO = "time, of the first's"


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the guard."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return importlib.import_module("benchmarks.guard")


def part(seconds: float = 1.0, **ratios: float) -> dict[str, Any]:
    """Makes the results of a part, with a first candidate."""
    return {
        "rows": [{"candidate": name, "s": seconds, RATIO: ratio} for name, ratio in {"first": 1.0, **ratios}.items()]
    }


def test_ratio_is_worse_only_by_more_than_a_tenth(guard: ModuleType) -> None:
    stored, found = part(a=0.5, b=0.5, c=0.5), part(a=0.56, b=0.549, c=0.2)
    rows = guard.compared({"cnn.epoch": found}, {"cnn.epoch": stored})
    assert [(row["ratio"], row["verdict"]) for row in rows] == [
        *(("cnn.epoch: a", "worse"), ("cnn.epoch: b", ""), ("cnn.epoch: c", ""))
    ]
    assert rows[0]["change, %"] == pytest.approx(12)
    assert guard.failed(rows) == [0]


def test_slower_machine_is_no_worse(guard: ModuleType) -> None:
    assert not guard.failed(guard.compared({"a.b": part(9.0, ours=0.5)}, {"a.b": part(1.0, ours=0.5)}))


def test_stored_ratio_that_a_part_no_longer_gives_fails_and_a_new_one_does_not(guard: ModuleType) -> None:
    rows = guard.compared({"a.b": part(new=0.5)}, {"a.b": part(old=0.5), "not.run": part(ours=0.5)})
    assert [(row["ratio"], row["verdict"]) for row in rows] == [("a.b: old", "missing"), ("a.b: new", "not stored")]
    assert guard.failed(rows) == [0]


@pytest.mark.parametrize(("ratio", "status"), [(0.5, 0), (0.6, 1)])
def test_status_and_red_say_that_a_ratio_is_worse(
    guard: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ratio: float, status: int
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    show_changes = runpy.run_path(str(SCRIPT))["show_changes"]
    assert show_changes({"a.b": part(ours=ratio, other=0.5)}, {"a.b": part(ours=0.5, other=0.5)}) == status
    red = [line for line in capsys.readouterr().out.splitlines() if "\033[31m" in line]
    assert ["a.b: ours" in line for line in red] == [True] * status


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "expected a file that --json wrote"),
        ('{"parts": {"a.b": {}}, "settings": {"quick": false}}', "expected a file that --json wrote"),
        ('{"parts": {}, "settings": {"quick": true}}', "measured with --quick: expected the same"),
        (
            '{"parts": {}, "settings": {"quick": false, "accelerator": "gpu"}}',
            "measured with --accelerator gpu: expected cpu, as here",
        ),
    ],
)
def test_file_that_has_no_such_results_is_refused(
    guard: ModuleType, tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "stored.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        guard.stored_parts(file, quick=False)


def test_ratios_of_the_cpu_are_not_compared_with_those_of_a_gpu(guard: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="measured with --accelerator cpu: expected gpu, as here"):
        guard.stored_parts(STORED, quick=False, accelerator="gpu")
    file = tmp_path / "gpu.json"
    file.write_text('{"parts": {}, "settings": {"quick": false, "accelerator": "gpu"}}')
    assert guard.stored_parts(file, quick=False, accelerator="gpu") == {}


def test_stored_ratios_say_where_they_come_from_and_are_of_parts_that_there_are(guard: ModuleType) -> None:
    stored = json.loads(STORED.read_text())
    assert stored["machine"]["processor"]
    assert stored["commit"]
    assert stored["settings"]["repeats"] >= 3
    for name, found in guard.stored_parts(STORED, quick=False).items():
        suite, _, which = name.partition(".")
        assert which in importlib.import_module(f"benchmarks.{suite.replace('-', '_')}").PARTS
        assert guard.ratios({name: found}), name
