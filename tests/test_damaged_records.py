"""Records that are cut, or hold what no run has written: each costs its own run, and is said by name."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY
from study_toys import toy_study
from test_cli import error_line

from lightning_transfer.cli.entry import main
from lightning_transfer.errors import UserError
from lightning_transfer.files import read_json

CUT = '{"validation": {"val/acc'


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a study of two runs has finished."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("configs").symlink_to(REPOSITORY / "configs")
        toy = toy_study(tuning=None, weights={"none": None}, sizes=[2], seeds=[0])
        Path("study.yaml").write_text(yaml.safe_dump(asdict(toy), sort_keys=False))
        main(["study", "--config", "study.yaml", "--workers", "0"])
    return folder


@pytest.fixture
def command(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The study's command, in a folder with a copy of what it has left."""
    copy = tmp_path / "copy"
    shutil.copytree(study, copy, symlinks=True)
    monkeypatch.chdir(copy)
    return ["study", "--config", "study.yaml", "--workers", "0"]


def of_runs(name: str) -> list[Path]:
    return sorted(Path("logs/toy").glob(f"*/{name}"))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (CUT, "is damaged: expected JSON (Unterminated string"),
        ("", "is damaged: expected JSON (Expecting value"),
        ("[1]", "holds a list: expected a dict"),
        ('{"test": {"test/accuracy": NaN}}', "has no number as test/accuracy"),
        ('{"test": {"test/accuracy": "<b>1</b>"}}', "has no number as test/accuracy"),
        ('{"test": 3}', "has no number as test/accuracy"),
        ("[" * 100_000, "is damaged: expected JSON ("),
        ("{}", "has no commit"),
    ],
    ids=["cut", "empty", "list", "nan", "text", "number", "nested", "nothing"],
)
def test_damaged_result_of_a_study_costs_its_own_run(
    content: str, line: str, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    damaged, other = of_runs("results.json")
    before = json.loads(damaged.read_text())["test"]
    damaged.write_text(content)
    main([*command, "--report_only"])
    assert f"{damaged} {line}" in capsys.readouterr().out
    assert damaged.with_name("results.json.damaged").read_text() == content
    assert not damaged.exists()
    assert other.exists()
    main(command)  # the run's training is over: only its record is made again
    assert json.loads(damaged.read_text())["test"] == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fit_seconds", "soon"),
        ("train_seconds", ["<b>"]),
        ("data", {"train_examples": "many"}),
        ("versions", {}),
        ("commit", 3),
        ("validation", {"val/loss": "low"}),
        ("privacy", True),
        ("privacy", {"epsilon": "x", "delta": 1e-5}),
        ("privacy", {"epsilon": 1.0}),
        ("data", {"test_examples_in_training_split": "x"}),
    ],
)
def test_text_in_the_place_of_a_number_costs_the_run_alone(
    key: str, value: Any, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    damaged, _ = of_runs("results.json")
    damaged.write_text(json.dumps(json.loads(damaged.read_text()) | {key: value}))
    main([*command, "--report_only"])
    out = capsys.readouterr().out
    assert f"{damaged}.{key}" in out
    assert "it is now results.json.damaged, and its run goes on without it" in out


def test_damaged_record_of_a_failure_is_no_failure(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    file = of_runs("results.json")[0].with_name("failed.json")
    file.write_text(CUT)
    main([*command, "--report_only"])
    assert f"{file} is damaged" in capsys.readouterr().out


def test_study_does_not_go_on_without_the_settings_of_a_run(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = of_runs("cell.json")[0]
    file.write_text(CUT)
    for words in (command, [*command, "--report_only"]):
        assert error_line(capsys, *words).startswith(f"{file} is damaged: expected JSON")
    assert file.exists()


def test_report_shows_the_other_runs_and_names_the_damaged_one(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = of_runs("results.json")[0]
    damaged.write_text(CUT)
    main(["report", "logs"])
    run = damaged.parent.relative_to("logs")
    assert f"{run} is shown without its record: {damaged} is damaged" in capsys.readouterr().err
    (damaged.parent / "events.out.tfevents.1.x").mkdir()  # which cannot be read as a file
    main(["report", "logs"])
    assert f"{run} is shown without its event files: " in capsys.readouterr().err
    assert Path("logs/report.html").is_file()


def test_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1]")
    assert read_json(tmp_path / "list.json", list) == [1]
    with pytest.raises(UserError, match=r"list.json holds a list: expected a dict; move it away"):
        read_json(tmp_path / "list.json")
