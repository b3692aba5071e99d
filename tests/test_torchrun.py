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


def launch(folder: Path, image_folder: Path, version: str, more: list[str], *kinds: str) -> tuple[int, str]:
    """Three epochs of ten steps on two processes, with a new phase of unfreezing every seven steps.

    Rank 1 is interrupted once by each of the kinds: after step 13, after step 26.
    """
    callbacks: list[dict[str, object]] = [UNFREEZING]
    for step, kind in zip((13, 26), kinds, strict=False):
        how = {"steps": [step], "kind": kind, "rank": 1}
        callbacks.append({"class_path": "interruptions.Interruption", "init_args": how})
    arguments = ["--trainer.callbacks", json.dumps(callbacks), "--version", version, "--trainer.max_epochs", "3"]
    arguments += ["--trainer.strategy", "ddp", "--data.batch_size", "8", "--trainer.log_every_n_steps", "2"]
    options = ["--nproc-per-node", "2", "--monitor-interval", "0.5", *more, "--"]
    command = [str(REPOSITORY / "scripts" / "launch_torchrun"), *options, *fit_arguments(image_folder, *arguments)[1:]]
    programs = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return run(command, folder, PATH=programs)


def test_rank_killed_in_one_phase_and_asked_to_stop_in_another_ends_as_the_uninterrupted_run(
    image_folder: Path, tmp_path: Path
) -> None:
    status, output = launch(tmp_path, image_folder, "whole", [])
    assert status == 0, output
    status, output = launch(tmp_path, image_folder, "hurt", [], "SIGKILL", "SIGTERM")
    assert status == 0, output
    assert {file.name for file in tmp_path.glob("interrupted_*")} == {"interrupted_after_13", "interrupted_after_26"}
    assert "SIGTERM: stopped after step 27" in output  # both heard of it while the next one ran
    hurt, whole = (tmp_path / "logs" / "default" / name for name in ("hurt", "whole"))
    assert_equal_runs(hurt, whole)
    assert curves(hurt) == curves(whole)


def test_rank_that_fails_without_restarts_left_ends_the_run(image_folder: Path, tmp_path: Path) -> None:
    status, output = launch(tmp_path, image_folder, "failed", ["--max-restarts", "0"], "raise")
    assert status not in (0, 143), output
    assert last_checkpoint(tmp_path / "logs/default/failed")["global_step"] == 10
