"""Two processes of which one fails or is asked to stop: both are gone within a minute, and the run goes on."""

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


def gone_within_a_minute(folder: Path) -> bool:
    """Whether the last interruption, after which ``run`` has seen all processes end, was less than that ago."""
    return time.time() - max(mark.stat().st_mtime for mark in folder.glob("interrupted_after_*")) < 60


@pytest.fixture(scope="module")
def whole(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    status, output = run(fit(folder, image_folder, "whole", [], []), folder)
    assert status == 0, output
    return folder / "logs/default/whole"


def test_run_whose_ranks_fail_are_asked_to_stop_and_are_killed_ends_as_the_uninterrupted_one(
    whole: Path, image_folder: Path, tmp_path: Path
) -> None:
    def outcome(steps: list[int], **how: object) -> tuple[int, str]:
        command = fit(tmp_path, image_folder, "hurt", steps, ["--ckpt_path", "last"], **how)
        status, output = run(command, tmp_path)
        assert not steps or gone_within_a_minute(tmp_path)
        return status, output

    def assert_saved(step: int) -> None:
        assert last_checkpoint(tmp_path / "logs/default/hurt")["global_step"] == step

    status, output = outcome([13], kind="raise", rank=1)
    assert status not in (0, 143), output
    assert_saved(10)  # the end of the first epoch
    status, output = outcome([14], kind="SIGTERM", rank=0)  # test_torchrun.py asks rank 1
    assert status == 143, output
    assert "SIGTERM: stopped after step 15" in output  # both heard of it while the next one ran
    assert_saved(15)
    status, output = outcome([17], kind="SIGKILL", rank=0)
    assert status not in (0, 143), output
    assert_saved(15)
    status, output = outcome([])
    assert status == 0, output
    assert_equal_runs(tmp_path / "logs/default/hurt", whole)


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
