"""Runs under scripts/launch_torchrun: crashes, restarts, and the end that was asked for."""

import json
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, fit_arguments
from interruptions import assert_equal_runs, curves, last_checkpoint
from launching import run

pytestmark = pytest.mark.slow  # each test starts processes

UNFREEZING = {
    "class_path": "lightning_transfer.ProgressiveUnfreezing",
    "init_args": {"schedule": "gradual", "until": {"steps": 7}},
}


def launch(folder: Path, image_folder: Path, version: str, more: list[str], **interruption: object) -> tuple[int, str]:
    """Three epochs of ten steps on two processes, with a new phase of unfreezing every seven steps."""
    callbacks = [{"class_path": "interruptions.Interruption", "init_args": {"steps": [], **interruption}}, UNFREEZING]
    arguments = ["--trainer.callbacks", json.dumps(callbacks), "--version", version, "--trainer.max_epochs", "3"]
    arguments += ["--trainer.strategy", "ddp", "--data.batch_size", "8", "--trainer.log_every_n_steps", "2"]
    options = ["--nproc-per-node", "2", "--monitor-interval", "0.5", *more, "--"]
    command = [str(REPOSITORY / "scripts" / "launch_torchrun"), *options, *fit_arguments(image_folder, *arguments)[1:]]
    programs = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return run(command, folder, PATH=programs)


@pytest.fixture(scope="module")
def whole(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    status, output = launch(folder, image_folder, "whole", [])
    assert status == 0, output
    return folder / "logs" / "default" / "whole"


def test_rank_killed_in_two_phases_costs_no_more_than_the_epoch(
    whole: Path, image_folder: Path, tmp_path: Path
) -> None:
    status, output = launch(tmp_path, image_folder, "killed", [], steps=[13, 26], kind="SIGKILL", rank=1)
    assert status == 0, output
    assert {file.name for file in tmp_path.glob("interrupted_*")} == {"interrupted_after_13", "interrupted_after_26"}
    assert_equal_runs(tmp_path / "logs/default/killed", whole)
    assert curves(tmp_path / "logs/default/killed") == curves(whole)


def test_signal_to_one_rank_restarts_the_run_from_that_step(whole: Path, image_folder: Path, tmp_path: Path) -> None:
    status, output = launch(tmp_path, image_folder, "stopped", [], steps=[13], kind="SIGTERM", rank=1)
    assert status == 0, output
    assert "SIGTERM: stopped after step 14" in output  # both heard of it while the next one ran
    assert_equal_runs(tmp_path / "logs/default/stopped", whole)


def test_rank_that_fails_without_restarts_left_ends_the_run(image_folder: Path, tmp_path: Path) -> None:
    status, output = launch(tmp_path, image_folder, "failed", ["--max-restarts", "0"], steps=[13], kind="raise", rank=0)
    assert status not in (0, 143), output
    assert last_checkpoint(tmp_path / "logs/default/failed")["global_step"] == 10
