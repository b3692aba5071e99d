"""On a real SLURM: jobs of several tasks, requeues in mid-epoch, arrays."""

import json
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, fit_arguments
from interruptions import assert_equal_runs, curves
from launching import environment
from slurm_cluster import SlurmCluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SCRIPT = REPOSITORY / "scripts" / "launch_slurm.sbatch"
CPU = ["--gres=none", "--cpus-per-task=1", "--time=00:20:00"]


def submit(slurm: SlurmCluster, folder: Path, options: list[str], arguments: list[str]) -> str:
    """Submits the launch script from a folder, as from the root of the repository, with the tests' own Python."""
    (folder / "logs").mkdir(exist_ok=True)
    programs = f"{Path(sys.executable).parent}:{slurm.environment['PATH']}"
    return slurm.submit(*CPU, *options, SCRIPT, *arguments, cwd=folder, **environment(PATH=programs))


def fit(image_folder: Path, *more: str) -> list[str]:
    return fit_arguments(image_folder, "--trainer.max_epochs", "2", "--data.batch_size", "8", *more)[1:]


def test_cluster_runs_the_tasks_of_a_job(slurm: SlurmCluster) -> None:
    assert slurm.run("srun", "--ntasks=2", "printenv", "SLURM_NTASKS").splitlines() == ["2", "2"]


def test_job_requeued_by_signal_and_by_hand_ends_as_the_uninterrupted_one(
    slurm: SlurmCluster, image_folder: Path, tmp_path: Path
) -> None:
    callbacks = [{"class_path": "interruptions.Interruption", "init_args": {"steps": [4, 13], "kind": "pause"}}]
    ddp = fit(image_folder, "--config", "configs/hardware/ddp_cpu.yaml")
    whole = submit(slurm, tmp_path, ["--ntasks-per-node=2"], ddp)
    assert slurm.wait(whole) == "COMPLETED"

    job = submit(slurm, tmp_path, ["--ntasks-per-node=2"], [*ddp, "--trainer.callbacks", json.dumps(callbacks)])
    for step, command in ((4, ("scancel", "--signal=USR1", job)), (13, ("scontrol", "requeue", job))):
        mark = tmp_path / f"interrupted_after_{step}"
        deadline = time.monotonic() + 240
        while not mark.exists():
            assert time.monotonic() < deadline, slurm.describe(job)
            time.sleep(0.2)
        slurm.run(*command)
    assert slurm.wait(job) == "COMPLETED"

    assert slurm.describe(job)["Restarts"] == "2"
    output = (tmp_path / f"logs/slurm-{job}.out").read_text()
    # Two processes stop at the boundary after the one at which they ask each other.
    assert "SIGUSR1: stopped after step 5" in output
    assert "SIGTERM: stopped after step 14" in output
    runs = [tmp_path / "logs" / "default" / f"slurm_{number}" for number in (job, whole)]
    assert_equal_runs(*runs)
    assert curves(runs[0]) == curves(runs[1])
    assert json.loads((runs[0] / "results.json").read_text())["processes"] == 2


def test_array_runs_each_seed(slurm: SlurmCluster, image_folder: Path, tmp_path: Path) -> None:
    job = submit(slurm, tmp_path, ["--array=0-1"], fit(image_folder, "--trainer.max_epochs", "1"))
    for task in range(2):
        assert slurm.wait(f"{job}_{task}") == "COMPLETED"
    folders = [tmp_path / "logs" / "default" / f"slurm_{job}_{task}" for task in range(2)]
    records = [json.loads((folder / "results.json").read_text()) for folder in folders]
    assert [record["seed"] for record in records] == [0, 1]
    assert len({record["validation"]["val/loss"] for record in records}) == 2
