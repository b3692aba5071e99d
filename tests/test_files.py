"""What is written is there whole, or not at all."""

import itertools
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from lightning_transfer.errors import UserError
from lightning_transfer.files import MIRROR_VARIABLE, in_mirror, replacing, write_json, write_text

PACKAGE = Path(__file__).parents[1] / "lightning_transfer"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder."""
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_file_is_written_whole_and_nothing_else_is_left(folder: Path) -> None:
    file = folder / "below" / "text"
    for text in ("ä\n", "ö\n"):
        write_text(file, text)
        assert file.read_text(encoding="utf-8") == text
    write_json(folder / "below" / "numbers.json", {"a": 1})
    assert names(file.parent) == ["numbers.json", "text"]


@pytest.mark.parametrize("is_folder", [False, True])
def test_failure_leaves_what_was_there(folder: Path, is_folder: bool) -> None:
    def write(text: str, error: Exception | None = None) -> None:
        with replacing(target) as partial:
            if is_folder:
                partial.mkdir()
            (partial / "file" if is_folder else partial).write_text(text)
            if error:
                raise error

    target = folder / "target"
    write("first")
    with pytest.raises(RuntimeError, match="stopped"):
        write("second", RuntimeError("stopped"))
    assert (target / "file" if is_folder else target).read_text() == "first"
    assert names(folder) == ["target"]


def test_folder_replaces_a_folder_with_all_that_was_in_it(folder: Path) -> None:
    for name in ("old", "new"):
        with replacing(folder / "entry") as partial:
            partial.mkdir()
            (partial / name).touch()
    assert names(folder / "entry") == ["new"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_kill_at_any_step_of_replacing_a_folder_leaves_the_earlier_or_the_new_one(folder: Path) -> None:
    def replace(name: str) -> None:
        with replacing(folder / "entry") as partial:
            partial.mkdir()
            for number in range(3):
                (partial / f"{name}{number}").touch()

    def killed_at(step: int) -> bool:
        if (child := os.fork()) == 0:
            events = itertools.count()
            sys.addaudithook(lambda *_: next(events) == step and os.kill(os.getpid(), signal.SIGKILL))
            replace("new")
            os._exit(0)
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])

    step, states, left = 0, set(), set()
    replace("old")
    while killed_at(step):
        states.add(" ".join(names(folder / "entry") if (folder / "entry").exists() else []))
        with pytest.raises(RuntimeError), replacing(folder / "entry"):
            raise RuntimeError
        left.add(" ".join(names(folder / "entry")))
        replace("old")
        assert names(folder) == ["entry"]
        assert names(folder / "entry") == ["old0", "old1", "old2"]
        step += 1
    assert step > 20
    # Between two renames there is none, and the next process brings the earlier one back.
    assert states == {"old0 old1 old2", "new0 new1 new2", ""}
    assert left == {"old0 old1 old2", "new0 new1 new2"}


def test_what_a_killed_process_has_left_is_in_nobodys_way(folder: Path) -> None:
    (folder / ".text.partial").mkdir()
    (folder / ".text.partial" / "half").touch()
    write_text(folder / "text", "whole")
    assert names(folder) == ["text"]


def test_file_never_takes_the_place_of_a_folder(folder: Path) -> None:
    (folder / "below").mkdir()
    (folder / "below" / "precious").touch()
    with pytest.raises(IsADirectoryError):
        write_text(folder / "below", "text")
    assert names(folder / "below") == ["precious"]
    assert names(folder) == ["below"]


def test_link_stays_and_what_it_points_to_is_written(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "link").symlink_to(folder / "elsewhere" / "file")
    write_text(folder / "link", "text")
    assert (folder / "link").is_symlink()
    assert (folder / "elsewhere" / "file").read_text() == "text"


def test_pipe_is_written_directly() -> None:
    read_end, write_end = os.pipe()
    write_text(Path(f"/dev/fd/{write_end}"), "text")
    assert os.read(read_end, 10) == b"text"
    os.close(read_end)
    os.close(write_end)


def test_package_has_one_writer_of_whole_files() -> None:
    writing = re.compile(r"\.write_text\(|\.write_bytes\(|(?<!devnull\)\.)open\(\"w|os\.fsync|os\.replace|\.rename\(")
    others = [file for file in PACKAGE.rglob("*.py") if writing.search(file.read_text())]
    assert [file.name for file in others if "replacing(" not in file.read_text()] == []


def test_first_mirror_that_has_an_id_gives_its_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("data/owner/set", "models/owner/set", "models/owner/model"):
        (folder / path).mkdir(parents=True)
    monkeypatch.setenv(MIRROR_VARIABLE, os.pathsep.join(["", str(folder / "data"), str(folder / "models")]))
    assert in_mirror("owner/set") == folder / "data" / "owner" / "set"
    assert in_mirror("owner/model") == folder / "models" / "owner" / "model"
    assert in_mirror("owner/other") is None
    assert in_mirror("../models") is None
    monkeypatch.delenv(MIRROR_VARIABLE)
    assert in_mirror("owner/set") is None


def test_mirror_of_several_that_is_not_there_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MIRROR_VARIABLE, os.pathsep.join([str(folder), "/nowhere"]))
    with pytest.raises(UserError, match=r"^LIGHTNING_TRANSFER_MIRROR=/nowhere is not a folder: correct it"):
        in_mirror("owner/set")
