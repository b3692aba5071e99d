"""A run is also in the trackers that ``--track`` names, with their real libraries and no network."""

import csv
import importlib
import json
import os
import re
import shutil
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import UNBOUNDED, fit_arguments

from lightning_transfer.cli.entry import main
from lightning_transfer.errors import UserError, require_library
from lightning_transfer.trackers.tracking import tracked

PICTURES = {"training/examples", "phase/timeline", "validation/confusion_matrix", "validation/top_losses"}


@pytest.fixture(autouse=True)
def unconfigured(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No tracker of this machine's user is known, and no environment outlives the test."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    for name in ("WANDB_ERROR_REPORTING", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(own_folder / "no_netrc"))


def run_twice(folder: Path, tracker: str, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """A run of two epochs that stops after the first and goes on; gives its record and what the second part printed."""
    command = fit_arguments(folder, "--version", "a", "--track", tracker, "--ckpt_path", "last")
    command += ["--trainer.log_every_n_steps", "3", *UNBOUNDED, "--dashboards.attributions", "false"]
    command += ["--dashboards.embeddings", "0", "--dashboards.graph", "false", "--test_after_fit", "true"]
    main(command)
    capsys.readouterr()
    main([*command, "--trainer.max_epochs", "2"])
    return json.loads(Path("logs/default/a/results.json").read_text()), capsys.readouterr().out


def test_metrics_file_goes_on_in_one_table(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = fit_arguments(image_folder, "--version", "a", "--track", "csv", "--ckpt_path", "last")
    command += ["--dashboards", "null", "--trainer.log_every_n_steps", "3"]
    main(command)
    file = Path("logs/default/a/metrics.csv")
    first = file.read_text()
    with file.open("a") as table:  # as a run leaves it that was killed after its last checkpoint
        table.write(",".join("30" if name == "step" else "7" for name in first.splitlines()[0].split(",")) + "\n")
    main([*command, "--trainer.max_epochs", "2"])
    rows = list(csv.DictReader(file.open()))
    assert [int(row["step"]) for row in rows if row["train/loss"]] == [2, 5, 8, 11, 14, 17]
    assert [int(row["step"]) for row in rows if row["val/accuracy"]] == [8, 17]
    assert {row["train/loss"] for row in csv.DictReader(first.splitlines())} <= {row["train/loss"] for row in rows}
    assert "batch_size: 9" in file.with_name("hparams.yaml").read_text()
    assert f"metrics: {file}" in capsys.readouterr().out


def test_new_run_of_that_name_starts_its_table_anew(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/loss\n0,7\n")
    with tracked(["csv"], tmp_path, {}, None, True) as [table]:
        table.log_metrics({"train/loss": 1.0}, 0)
    assert [row["train/loss"] for row in csv.DictReader((tmp_path / "metrics.csv").open())] == ["1.0"]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with tracked(["wandb", "mlflow", "csv"], tmp_path / "run", {}, None, False) as loggers:
        assert len(loggers) == 3
    assert list((tmp_path / "run").iterdir()) == []


def wandb_records(file: Path) -> Iterator[Any]:
    """Reads an offline run: records of W&B's own protocol in the form of LevelDB's log."""
    from wandb.proto import wandb_internal_pb2

    content, at, parts = file.read_bytes(), 7, []
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        parts.append(content[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield wandb_internal_pb2.Record.FromString(b"".join(parts))
            parts = []


def test_wandb_has_the_run_offline_and_goes_on_in_it(
    image_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    record, said = run_twice(image_folder, "wandb", capsys)
    assert wandb.run is None  # the next run of this process begins its own
    parts = sorted(Path("logs/default/a/wandb").glob("offline-run-*"))
    id = json.loads(Path("logs/default/a/trackers.json").read_text())["wandb"]
    assert [part.name.rpartition("-")[2] for part in parts] == [id, id]
    assert f"wandb sync {parts[1]}" in said
    assert "wandb: " not in said
    config: dict[str, Any] = {}
    steps, summary, keys = [], {}, set()
    for part in parts:
        for entry in wandb_records(part / f"run-{id}.wandb"):
            config |= {item.key: json.loads(item.value_json) for item in entry.config.update}
            row = {(*item.nested_key, item.key)[0]: item.value_json for item in entry.history.item}
            keys |= set(row)
            steps += [int(row["trainer/global_step"])] if "train/loss" in row else []
            summary |= {(*item.nested_key, item.key)[0]: item.value_json for item in entry.summary.update}
    assert config["data"]["init_args"]["batch_size"] == 9
    assert config["trainer"]["max_epochs"] == 2
    assert config["run"]["strategy"] == "scratch"
    assert steps == [2, 5, 8, 11, 14, 17]
    assert keys >= {*PICTURES, "phase/table", "validation/top_losses_table", "val/accuracy", "lr/head", "run/card"}
    assert float(summary["results/test/accuracy"]) == record["test"]["test/accuracy"]
    assert list(parts[1].glob("files/media/images/phase/timeline_*.png"))


def test_wandb_uploads_only_where_it_is_configured(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    modes = []
    monkeypatch.setattr(wandb, "init", lambda mode, **_: modes.append(mode) or sys.exit())

    def open_run() -> None:
        with tracked(["wandb"], own_folder, {}, None, True):
            pass

    for name, value in (("WANDB_X", ""), ("WANDB_API_KEY", "k"), ("WANDB_MODE", "online")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(SystemExit):
                open_run()
    (own_folder / "no_netrc").write_text("machine api.wandb.ai login user password key")
    with pytest.raises(SystemExit):
        open_run()
    assert modes == ["offline", None, None, None]


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of MLflow, which takes seconds to make."""
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def mlflow(empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow, with an empty store for the runs below logs."""
    Path("logs").mkdir()
    shutil.copy(empty_store, "logs/mlflow.db")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_DISABLE_TELEMETRY"):  # MLflow itself sets the first
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return importlib.import_module("mlflow")


@pytest.mark.slow
def test_mlflow_has_the_run_in_a_local_file_and_goes_on_in_it(
    mlflow: Any, image_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: asked.append(address) or [])
    record, said = run_twice(image_folder, "mlflow", capsys)
    assert asked == []
    assert "MLFLOW_TRACKING_URI" not in os.environ
    address = f"sqlite:///{Path('logs/mlflow.db').absolute()}"
    assert f"mlflow ui --backend-store-uri {address}" in said
    client = mlflow.MlflowClient(address)
    experiment = client.get_experiment_by_name("default")
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("a", "FINISHED")
    assert run.data.params["data/init_args/batch_size"] == "9"
    assert run.data.params["run/strategy"] == "scratch"
    assert run.data.metrics["results/test/accuracy"] == record["test"]["test/accuracy"]
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted(point.step for point in history) == [2, 5, 8, 11, 14, 17]
    files = [Path(folder, name).relative_to("logs") for folder, _, names in os.walk("logs/mlflow") for name in names]
    names = {file.name for file in files}
    assert "results.json" in names
    # MLflow writes the slashes of a tag as tildes, and joins it to the step by a plus.
    pictures = [re.sub("[~+]", "/", name) for name in names if name.endswith(".png")]
    assert all(any(name.startswith(f"{tag}/") for name in pictures) for tag in PICTURES)
    assert any(file.match("phase/table/*.json") for file in files)
    assert any(file.match("run/card/*.md") for file in files)


def test_failed_run_is_a_failed_run_in_mlflow(mlflow: Any) -> None:
    folder = Path("logs/mine/a")
    folder.mkdir(parents=True)
    with pytest.raises(KeyError), tracked(["mlflow"], folder, {"a": 1}, None, True) as [run]:
        raise KeyError
    assert run.experiment.get_run(run.run_id).info.status == "FAILED"
    with tracked(["mlflow"], folder, {"a": 2, "b": 3}, 5, True) as [again]:
        assert again.experiment.get_run(run.run_id).info.status == "RUNNING"
    kept = mlflow.MlflowClient(f"sqlite:///{Path.cwd()}/logs/mlflow.db").get_run(run.run_id)
    assert (kept.info.status, kept.data.params) == ("FINISHED", {"a": "1", "b": "3"})
    (folder / "trackers.json").write_text('{"mlflow": "gone"}')
    with pytest.raises(UserError, match="its run gone is not in sqlite"), tracked(["mlflow"], folder, {}, 5, True):
        pass


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_missing_tracker_is_named_before_any_work(
    tracker: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        main(["fit", "--config", "configs/quickstart.yaml", "--track", tracker])
    said = capsys.readouterr().err
    assert f"--track {tracker} needs {tracker}, which is not installed: " in said
    assert f"pip install 'lightning-transfer[{tracker}]'" in said
    assert not Path("logs").exists()


def test_unknown_tracker_is_answered_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--config", "configs/quickstart.yaml", "--track", "aim"])
    [line] = capsys.readouterr().err.splitlines()
    assert all(name in line for name in ("track", "aim", "wandb", "mlflow", "csv"))


def test_folder_of_a_library_s_name_is_not_the_library(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (own_folder / "tracker_that_nobody_has").mkdir()
    monkeypatch.syspath_prepend(own_folder)
    with pytest.raises(UserError, match="not installed"):
        require_library("tracker_that_nobody_has", "--track")
