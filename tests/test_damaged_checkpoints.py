"""A damaged checkpoint is never loaded in silence, and a run goes on from the newest one that is whole."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import fit_arguments
from interruptions import curves, last_checkpoint
from test_cli import error_line

from lightning_transfer.cli.entry import main
from lightning_transfer.cli.resuming import resumed
from lightning_transfer.errors import UserError
from lightning_transfer.run.folder import start_of_fit
from lightning_transfer.run.reading import newest_whole, read_checkpoint
from lightning_transfer.study.cells import Cell
from lightning_transfer.transfer.damage import damage_of
from lightning_transfer.transfer.weights import load_starting_weights

PARTS = ("state_dict", "loops", "callbacks", "optimizer_states", "lr_schedulers")


def write(file: Path, step: int = 1, **changes: Any) -> Path:
    """Writes what a run saves, in small."""
    parts: dict[str, Any] = {name: {} for name in PARTS}
    state = {**parts, "state_dict": {"weight": torch.arange(100.0)}, "epoch": 0, "global_step": step, **changes}
    file.parent.mkdir(parents=True, exist_ok=True)
    present = {name: part for name, part in state.items() if part is not None}
    torch.save({"pytorch-lightning_version": "2.6.0", **present}, file)
    return file


def flip(file: Path) -> None:
    """Flips a bit in the middle of the largest tensor of a file."""
    state = torch.load(file, weights_only=True)["state_dict"]
    largest = max(state.values(), key=lambda tensor: tensor.numel())
    content = bytearray(file.read_bytes())
    place = content.index(largest.numpy().tobytes())
    content[place + largest.nbytes // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-50])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def test_bit_flipped_anywhere_is_seen_or_changes_nothing_that_is_loaded(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.ckpt").read_bytes()
    expected = torch.load(tmp_path / "whole.ckpt", weights_only=True)
    weights = expected.pop("state_dict")
    assert damage_of(tmp_path / "whole.ckpt") is None
    seen = 0
    for place in range(0, len(whole), 3):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        file = tmp_path / f"{place}.ckpt"
        file.write_bytes(content)
        if damage_of(file) is not None:
            seen += 1
            continue
        try:
            loaded = torch.load(file, weights_only=True)
        except Exception:
            continue
        torch.testing.assert_close(loaded.pop("state_dict"), weights, rtol=0, atol=0)
        assert loaded == expected
    assert seen > 200


def test_file_cut_anywhere_is_damaged(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.ckpt").read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        file = tmp_path / f"{length}.ckpt"
        file.write_bytes(whole[:length])
        with pytest.raises(UserError, match=f"{length}.ckpt is (damaged: it|no checkpoint)"):
            read_checkpoint(file)
        assert length < 4 or damage_of(file) == "was cut short, or changed at its end"


def test_torch_itself_loads_a_flipped_bit_in_silence(tmp_path: Path) -> None:
    flip(write(tmp_path / "last.ckpt"))
    torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert str(damage_of(tmp_path / "last.ckpt")).startswith("does not match its checksum in last/data/")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("state_dict", "has no state_dict: expected a whole checkpoint of a run; if it holds weights, start by"),
        ("optimizer_states", "has no optimizer_states: expected a whole checkpoint of a run; if it holds weights"),
        ("callbacks", "has no callbacks: expected"),
        ("global_step", "has no global_step: expected"),
    ],
)
def test_checkpoint_without_a_part_is_one_line(part: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_checkpoint(write(tmp_path / "a.ckpt", **{part: None}), is_trained=True)


def test_state_dict_that_is_none_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no weights by name as state_dict"):
        read_checkpoint(write(tmp_path / "a.ckpt", state_dict=3))


def test_checkpoint_that_cannot_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("lightning_transfer.run.reading.damage_of", refuse)
    with pytest.raises(UserError, match=r"a\.ckpt cannot be read: Permission denied; give another checkpoint"):
        read_checkpoint(write(tmp_path / "a.ckpt"))


@pytest.mark.parametrize("harm", [flip, cut, empty, Path.unlink])
def test_newest_whole_checkpoint_takes_the_place_of_the_last(harm: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    assert newest_whole(folder) is None
    write(folder / "best.ckpt", 5)
    write(folder / "epoch=3.ckpt", 7)
    flip(write(folder / "epoch=4.ckpt", 8))
    write(folder / "weights.ckpt", 9, optimizer_states=None)
    (folder / "notes.ckpt").write_text("no checkpoint")
    last = write(folder / "last.ckpt", 7)
    assert newest_whole(folder) == last
    harm(last)
    assert newest_whole(folder) == folder / "epoch=3.ckpt"
    assert start_of_fit("last", tmp_path, "run") == str(folder / "epoch=3.ckpt")
    if last.exists():
        assert start_of_fit(str(last), tmp_path, None) == str(folder / "epoch=3.ckpt")
        with pytest.raises(
            UserError, match=r"last\.ckpt is damaged: it .*; the newest whole one beside it is .*=3\.ckpt"
        ):
            read_checkpoint(last)


def test_run_without_a_whole_checkpoint_is_never_started_over_unasked(tmp_path: Path) -> None:
    cut(write(tmp_path / "run" / "checkpoints" / "last.ckpt"))
    with pytest.raises(UserError, match="no other checkpoint beside it can go on: restore one, or move it away"):
        start_of_fit("last", tmp_path, "run")


def test_cell_of_a_study_goes_on_from_the_newest_whole_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "name" / "checkpoints"
    write(folder / "best.ckpt")
    cut(write(folder / "last.ckpt"))
    assert Cell("name", tmp_path, "final", ("fit",), {}, ()).resume() == ["--ckpt_path=last"]
    assert (folder / "last.ckpt").exists()


def test_damaged_starting_weights_are_refused(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    content = bytearray((tmp_path / "weights.pt").read_bytes())
    content[content.index(module.weight.detach().numpy().tobytes())] ^= 1
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.pt is damaged: it does not match its checksum"):
        load_starting_weights(module, str(tmp_path / "weights.pt"), [])


@pytest.fixture(scope="module")
def finished(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The logs of a run of two epochs of nine steps."""
    logs = tmp_path_factory.mktemp("finished") / "logs"
    more = ["--logs", str(logs), "--version", "run", "--trainer.max_epochs", "2", "--dashboards", "null"]
    main(fit_arguments(image_folder, *more))
    return logs


@pytest.fixture
def run(finished: Path) -> Path:
    """A copy of that run, to be harmed."""
    shutil.copytree(finished, "logs")
    return Path("logs/default/run")


def test_damaged_checkpoints_of_a_run_cost_one_line_and_it_goes_on(
    run: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    shutil.copy(run / "checkpoints" / "last.ckpt", run / "checkpoints" / "copy.ckpt")
    flip(run / "checkpoints" / "last.ckpt")
    flip(run / "checkpoints" / "best.ckpt")
    main(["fit", "--resume", "run", "--trainer.max_epochs", "3"])
    [line] = [line for line in capsys.readouterr().err.splitlines() if "last.ckpt" in line]
    assert line.startswith(f"{run}/checkpoints/last.ckpt is damaged, it does not match its checksum in")
    assert line.endswith(f": going on from {run}/checkpoints/copy.ckpt, of step 18")
    assert json.loads((run / "results.json").read_text())["steps"] == 27
    assert last_checkpoint(run)["global_step"] == 27
    assert damage_of(run / "checkpoints" / "best.ckpt") is None
    assert [warning for warning in recwarn if "best.ckpt is damaged" in str(warning.message)]


def test_damaged_checkpoint_is_not_evaluated(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = run / "checkpoints" / "best.ckpt"
    flip(best)
    line = error_line(capsys, "test", "--config", str(run / "config.yaml"), "--ckpt_path", str(best))
    assert line.startswith(f"{best} is damaged: it does not match its checksum in archive/data/")
    assert line.endswith(f"; the newest whole one beside it is {run}/checkpoints/last.ckpt")


def test_curves_are_whole_where_the_clock_is_behind_that_of_the_first_part(run: Path) -> None:
    [events] = run.glob("events.*")
    stamp = events.name.split(".")[3]
    events.rename(events.with_name(events.name.replace(stamp, str(int(stamp) + 100_000))))
    before = curves(run)["train/loss"]
    main(["fit", "--resume", str(run), "--trainer.max_epochs", "3"])
    assert curves(run)["train/loss"][: len(before)] == before
    assert len(curves(run)["train/loss"]) > len(before)


@pytest.mark.parametrize("name", ["run", "a/run", "logs/a/run", "logs/a/run/"])
def test_resumed_run_is_found_by_its_name_or_folder(name: str) -> None:
    for folder in ("logs/a/run", "logs/b/other"):
        Path(folder).mkdir(parents=True)
        (Path(folder) / "config.yaml").touch()
    place = ["--logs", "logs", "--experiment", "a", "--version", "run", "--ckpt_path", "last"]
    words = resumed(["fit", "--seed_everything", "1", f"--resume={name}"])
    assert words == ["fit", "--config", "logs/a/run/config.yaml", "--seed_everything", "1", *place]


def test_run_beside_the_folder_where_one_is_has_its_own_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("one", "other"):
        folder = Path("logs/a") / version
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
    root = Path.cwd()
    monkeypatch.chdir("logs/a/other")
    words = resumed(["fit", "--resume", "../one"])
    assert words[words.index("--logs") + 1 :][:4] == [f"{root}/logs", "--experiment", "a", "--version"]


def test_name_of_several_runs_is_refused_unless_their_experiment_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("there/a/run", "there/b/run"):
        Path(folder).mkdir(parents=True)
        (Path(folder) / "config.yaml").touch()
    command = ["fit", "--resume", "run", "--logs", "there"]
    assert error_line(capsys, *command) == (
        "--resume is run, the name of several runs: name one by its folder: there/a/run, there/b/run"
    )
    assert resumed([*command, "--experiment", "b"])[2] == "there/b/run/config.yaml"
    assert error_line(capsys, "fit", "--resume", "rum", "--logs", "there") == (
        "--resume is 'rum': expected the folder or the name of a run below there; did you mean run?"
    )


@pytest.mark.parametrize("option", ["--version", "--ckpt_path"])
def test_resumed_run_decides_its_folder_and_its_checkpoint(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_line(capsys, "fit", "--resume", "run", f"{option}=x")
    assert line == f"--resume goes on in the run's own folder, from its newest checkpoint: leave out {option}"


def test_resume_is_for_the_command_line_of_fit(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_line(capsys, "plan", *fit_arguments(image_folder, "--resume", "run")[1:])
    assert line == "--resume is run: expected it on the command line of fit, and nowhere else"
