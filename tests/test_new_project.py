"""``lightning-transfer init``; what it writes is run by tests/test_python_door.py, from the wheel."""

import sys
from pathlib import Path

import pytest

from lightning_transfer.cli.entry import main


def error_line(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as exit_status:
        main([*arguments])
    assert exit_status.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    return line.removeprefix("lightning-transfer: error: ")


def test_folder_that_is_not_empty_is_left_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    Path("full").mkdir()
    Path("full/.hidden").touch()
    assert error_line(capsys, "init", "full") == "full is not empty: expected a new or an empty folder"
    assert [file.name for file in Path("full").iterdir()] == [".hidden"]


def test_file_and_place_below_a_file_are_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    assert error_line(capsys, "init", "file") == "file is a file: expected a new or an empty folder"
    assert "file/project" in error_line(capsys, "init", "file/project")
    assert "FOLDER" in error_line(capsys, "init").upper()


@pytest.mark.parametrize("folder", ["new/project", "empty"])
def test_new_and_empty_folders_get_a_project_that_can_be_planned(
    folder: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("empty").mkdir()
    main(["init", folder])
    assert "README.md, experiment.yaml, my_data.py, my_network.py" in capsys.readouterr().out
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(Path.cwd())
    main(["plan", "--config", "experiment", "--config", "strategies/gradual"])
    assert "head" in capsys.readouterr().out
    for module in ("my_data", "my_network"):
        sys.modules.pop(module)
