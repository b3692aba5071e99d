"""What a checkpoint or a record says of files is data: none is fetched, run or deleted because a file says so."""

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import fit_arguments
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy
from test_cli import error_line

from lightning_transfer.cli.entry import main
from lightning_transfer.errors import UserError
from lightning_transfer.files import named_in
from lightning_transfer.run.checkpoint_io import DurableCheckpointIO
from lightning_transfer.run.guarded_strategy import guard
from lightning_transfer.run.saved_paths import FilesOfTheRun
from lightning_transfer.transfer.sources import checkpoint_of

PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")


class Command:
    """Touches a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a checkpoint with code in it, which notes that it was fetched."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    torch.save({"state_dict": Command(tmp_path / "ran")}, tmp_path / "evil.ckpt")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the library's name
            (tmp_path / "fetched").touch()
            self.send_response(200)
            self.end_headers()
            self.wfile.write((tmp_path / "evil.ckpt").read_bytes())

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/evil.ckpt"
        server.shutdown()


def test_resuming_a_crafted_checkpoint_fetches_runs_and_deletes_nothing(image_folder: Path, address: str) -> None:
    more = ["--dashboards", "null", "--trainer.callbacks+", "ModelCheckpoint", "--trainer.callbacks.monitor=val/loss"]
    command = fit_arguments(image_folder, *more, "--version", "run")
    main(command)
    checkpoints = Path("logs/default/run/checkpoints")
    for name in ("precious", "precious.ckpt"):
        Path(name).mkdir()
        Path(name, "file").touch()
    saved = torch.load(checkpoints / "last.ckpt", weights_only=True)
    [best] = [key for key in saved["callbacks"] if key.startswith("BestCheckpoint")]
    [last] = [key for key in saved["callbacks"] if key.startswith("LastCheckpoint")]
    own = str(Path("logs/default/run/checkpoints"))
    # The best is never reached again, so that it is tested; the others are replaced, and deleted, at once.
    for key, said, score in (
        (best, address, 2.0),
        (last, f"{own}/../../../../precious", -2.0),
        (ModelCheckpoint(monitor="val/loss").state_key, f"{own}/../../../../precious.ckpt", 1e9),
    ):
        state = saved["callbacks"][key]
        state |= dict.fromkeys(PATHS, said)
        state |= {"best_k_models": {said: torch.tensor(score)}, "best_model_score": torch.tensor(score)}
        state |= {"kth_value": torch.tensor(score)}
    torch.save(saved, checkpoints / "last.ckpt")
    main([*command, "--ckpt_path", "last", "--trainer.max_epochs", "2", "--test_after_fit", "true"])
    assert not Path("fetched").exists()
    assert not Path("ran").exists()
    assert all(Path(name, "file").exists() for name in ("precious", "precious.ckpt"))
    record = json.loads((checkpoints.parent / "results.json").read_text())
    assert Path(record["best_checkpoint"]).samefile(checkpoints / "best.ckpt")


@pytest.fixture(scope="module")
def whole(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a run of one epoch."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(fit_arguments(image_folder, "--dashboards", "null", "--version", "run"))
    return folder / "logs/default/run/checkpoints/last.ckpt"


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("CIFAR10", None, {}),
        ("CIFAR10", "class_names", 3),
        ("callbacks", "ResultsRecorder", 3),
        ("loops", None, {}),
    ],
)
def test_state_that_no_run_has_saved_is_one_line(
    part: str, key: str | None, value: Any, whole: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(whole, weights_only=True)
    names = [name for name in state[part] if key is not None and name.startswith(key)]
    state |= {part: value} if key is None else {part: state[part] | dict.fromkeys(names, value)}
    torch.save(state, "other.ckpt")
    command = fit_arguments(image_folder, "--dashboards", "null", "--ckpt_path", "other.ckpt")
    line = error_line(capsys, *command, "--trainer.max_epochs", "2")
    assert line.startswith(("the state in the checkpoint does not fit this run (", "the checkpoint"))


def loaded(callback: ModelCheckpoint, state: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    """What the callback is told of its state in a checkpoint."""
    trainer: Any = SimpleNamespace(
        checkpoint_callbacks=[callback],
        ckpt_path=str(checkpoint),
        strategy=SimpleNamespace(broadcast=lambda value: value),
    )
    content = {"callbacks": {callback.state_key: state}}
    FilesOfTheRun().on_load_checkpoint(trainer, None, content)  # type: ignore[arg-type]
    callback.load_state_dict(content["callbacks"][callback.state_key])
    return vars(callback)


@pytest.mark.parametrize("is_own", [True, False], ids=["in the run's own folder", "beside the named checkpoint"])
def test_only_checkpoints_that_lie_there_are_meant_by_a_state(is_own: bool, tmp_path: Path) -> None:
    there, elsewhere = tmp_path / "there", tmp_path / "elsewhere"
    for folder in (there, there / "below", elsewhere):
        folder.mkdir()
    for file in (there / "a.ckpt", there / "below/b.ckpt", there / "record.json", elsewhere / "c.ckpt"):
        file.touch()
    (there / "link.ckpt").symlink_to(elsewhere / "c.ckpt")
    said = ["/moved/away/a.ckpt", "/moved/away/below/b.ckpt", "/moved/away/record.json", "/moved/away/link.ckpt"]
    said += [str(elsewhere / "c.ckpt"), "/moved/away/../elsewhere/c.ckpt", "s3://bucket/d.ckpt", "/moved/away", ""]
    callback = ModelCheckpoint(monitor="loss", dirpath=there if is_own else tmp_path / "new", save_top_k=2)
    state = callback.state_dict() | {
        "best_k_models": {path: torch.tensor(float(place)) for place, path in enumerate(said)},
        "dirpath": "/moved/away",
        "best_model_path": "https://host/e.ckpt",
        "kth_best_model_path": said[3],
        "last_model_path": "file:///etc/passwd",
        "best_model_score": torch.tensor(-1.0),
    }
    found = loaded(callback, state, there / "last.ckpt")
    assert found["best_model_path"] == str(there / "a.ckpt")
    assert found["last_model_path"] == ""
    if is_own:
        assert found["best_k_models"] == {str(there / "a.ckpt"): 0, str(there / "below/b.ckpt"): 1}
        assert (found["kth_best_model_path"], found["kth_value"]) == (str(there / "below/b.ckpt"), 1)
        assert found["best_model_score"] == 0
    state["best_k_models"], state["best_model_path"] = {"https://host/e.ckpt": torch.tensor(0.0)}, 3
    fresh = ModelCheckpoint(monitor="loss", dirpath=there)
    found = loaded(fresh, state, there / "last.ckpt")
    assert (found["best_model_path"], found["best_k_models"], found["best_model_score"]) == ("", {}, None)


@pytest.mark.parametrize("said", ["..", ".", "", "/", "a/..", "nowhere.ckpt", None, 3, ["a"], "a\0b"])
def test_name_that_is_no_file_of_the_folder_means_nothing(said: object, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert named_in(tmp_path / "folder", said) is None


def test_record_names_no_checkpoint_outside_of_its_run(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for file in (folder / "last.ckpt", folder / "epoch=3.ckpt", tmp_path / "other.ckpt"):
        file.touch()
    record = tmp_path / "run" / "results.json"
    record.write_text(json.dumps({"best_checkpoint": "logs/before/it/moved/checkpoints/epoch=3.ckpt"}))
    assert checkpoint_of(tmp_path / "run") == folder / "epoch=3.ckpt"
    for said in (str(tmp_path / "other.ckpt"), "https://host/other.ckpt", "hf://owner/repository/other.ckpt"):
        record.write_text(json.dumps({"best_checkpoint": said}))
        with pytest.raises(UserError, match="which is not in"):
            checkpoint_of(tmp_path / "run")


def test_strategy_reads_data_alone_whatever_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = SingleDeviceStrategy("cpu", checkpoint_io=DurableCheckpointIO())
    guard(strategy)
    torch.save({"pytorch-lightning_version": "2", "callbacks": Command(tmp_path / "ran")}, tmp_path / "evil.ckpt")
    # As the strategies that read with a pickle of their own: what is asked for has no effect there.
    monkeypatch.setattr(
        DurableCheckpointIO, "load_checkpoint", lambda _, path, **__: torch.load(path, None, None, weights_only=False)
    )
    with pytest.raises(UserError, match="is no checkpoint"):
        strategy.load_checkpoint(tmp_path / "evil.ckpt", weights_only=False)
    for address in ("https://host/a.ckpt", "s3://bucket/a.ckpt", "memory://a.ckpt", "simplecache::http://host/a.ckpt"):
        with pytest.raises(UserError, match="is an address"):
            strategy.load_checkpoint(address, weights_only=False)
    assert not (tmp_path / "ran").exists()
    monkeypatch.undo()
    with pytest.raises(Exception, match="Weights only load failed"):
        DurableCheckpointIO().load_checkpoint(tmp_path / "evil.ckpt", weights_only=False)


def test_strategy_deletes_only_beside_what_it_has_written(tmp_path: Path) -> None:
    strategy = SingleDeviceStrategy("cpu", checkpoint_io=DurableCheckpointIO())
    guard(strategy)
    for folder in ("run", "precious"):
        (tmp_path / folder).mkdir()
    for file in ("run/old.ckpt", "precious/old.ckpt"):
        (tmp_path / file).touch()
    strategy.save_checkpoint({}, tmp_path / "run/new.ckpt")
    (tmp_path / "run/link").symlink_to(tmp_path / "precious")
    for path in ("precious", "precious/old.ckpt", "run/../precious", "run", "run/link", "run/link/old.ckpt"):
        strategy.remove_checkpoint(tmp_path / path)
    assert (tmp_path / "precious/old.ckpt").exists()
    assert (tmp_path / "run/old.ckpt").exists()
    strategy.remove_checkpoint(tmp_path / "run/old.ckpt")
    assert not (tmp_path / "run/old.ckpt").exists()
