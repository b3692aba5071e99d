"""Two processes of which one fails or is asked to stop: both are gone within a minute, and the run can go on."""

import json
import shutil
import socket
import time
from pathlib import Path

import pytest
from conftest import fit_arguments
from interruptions import assert_equal_runs, last_checkpoint
from launching import FIT, run

pytestmark = pytest.mark.slow  # each test starts processes


def fit(folder: Path, image_folder: Path, version: str, steps: list[int], more: list[str], **how: object) -> list[str]:
    """Two epochs of nine steps on two processes, interrupted."""
    callbacks = [{"class_path": "interruptions.Interruption", "init_args": {"steps": steps, **how}}]
    arguments = ["--trainer.callbacks", json.dumps(callbacks), "--version", version, "--trainer.max_epochs", "2"]
    arguments += ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "8"]
    return FIT + fit_arguments(image_folder, *arguments, *more)


def assert_gone_within_a_minute(folder: Path) -> None:
    """Asserts that the last interruption, after which ``run`` has seen all processes end, was less than that ago."""
    assert time.time() - max(mark.stat().st_mtime for mark in folder.glob("interrupted_after_*")) < 60


@pytest.fixture(scope="module")
def whole(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    status, output = run(fit(folder, image_folder, "whole", [], []), folder)
    assert status == 0, output
    return folder / "logs/default/whole"


# Rank 1 alone is asked to stop by test_torchrun.py.
def test_signal_to_one_rank_stops_both_and_the_run_goes_on(whole: Path, image_folder: Path, tmp_path: Path) -> None:
    command = fit(tmp_path, image_folder, "stopped", [13], ["--ckpt_path", "last"], kind="SIGTERM", rank=0)
    status, output = run(command, tmp_path)
    assert status == 143, output
    assert_gone_within_a_minute(tmp_path)
    assert "SIGTERM: stopped after step 14" in output  # both heard of it while the next one ran
    assert last_checkpoint(tmp_path / "logs/default/stopped")["global_step"] == 14
    status, output = run(command, tmp_path)
    assert status == 0, output
    assert_equal_runs(tmp_path / "logs/default/stopped", whole)


@pytest.mark.parametrize(("kind", "rank"), [("raise", 1), ("SIGKILL", 0)])
def test_failure_of_one_rank_ends_both_and_the_run_goes_on_from_the_last_epoch(
    kind: str, rank: int, whole: Path, image_folder: Path, tmp_path: Path
) -> None:
    command = fit(tmp_path, image_folder, "failed", [13], ["--ckpt_path", "last"], kind=kind, rank=rank)
    status, output = run(command, tmp_path)
    assert status not in (0, 143), output
    assert_gone_within_a_minute(tmp_path)
    assert last_checkpoint(tmp_path / "logs/default/failed")["global_step"] == 10
    status, output = run(command, tmp_path)
    assert status == 0, output
    assert_equal_runs(tmp_path / "logs/default/failed", whole)


def test_busy_port_ends_both_and_leaves_the_checkpoint(whole: Path, image_folder: Path, tmp_path: Path) -> None:
    checkpoints = tmp_path / "logs/default/busy/checkpoints"
    shutil.copytree(whole / "checkpoints", checkpoints)
    before = (checkpoints / "last.ckpt").read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        command = fit(tmp_path, image_folder, "busy", [], ["--ckpt_path", "last"])
        status, output = run(command, tmp_path, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    assert status != 0
    assert "EADDRINUSE" in output
    assert (checkpoints / "last.ckpt").read_bytes() == before
