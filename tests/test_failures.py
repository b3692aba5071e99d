"""Two processes of which one fails or is asked to stop: both are gone within a minute, and the run can go on."""

import json
import socket
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


def test_signal_to_one_rank_stops_both_and_the_run_goes_on(image_folder: Path, tmp_path: Path) -> None:
    status, output = run(fit(tmp_path, image_folder, "whole", [], []), tmp_path)
    assert status == 0, output
    command = fit(tmp_path, image_folder, "stopped", [13], ["--ckpt_path", "last"], kind="SIGTERM", rank=1)
    status, output = run(command, tmp_path)
    assert status == 143, output
    assert "SIGTERM: stopped after step 14" in output  # both heard of it while the next one ran
    assert last_checkpoint(tmp_path / "logs/default/stopped")["global_step"] == 14
    status, output = run(command, tmp_path)
    assert status == 0, output
    assert_equal_runs(tmp_path / "logs/default/stopped", tmp_path / "logs/default/whole")


@pytest.mark.parametrize(("kind", "rank"), [("raise", 1), ("SIGKILL", 0)])
def test_failure_of_one_rank_ends_both_and_leaves_the_last_epoch(
    kind: str, rank: int, image_folder: Path, tmp_path: Path
) -> None:
    status, output = run(fit(tmp_path, image_folder, "failed", [13], [], kind=kind, rank=rank), tmp_path)
    assert status not in (0, 143), output
    assert last_checkpoint(tmp_path / "logs/default/failed")["global_step"] == 10


def test_busy_port_ends_both(image_folder: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        command = fit(tmp_path, image_folder, "busy", [], [])
        status, output = run(command, tmp_path, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    assert status != 0
    assert "EADDRINUSE" in output
