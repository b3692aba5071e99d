"""Several processes give the answer of one: the same batches, weights and metrics."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import fit_arguments


@pytest.fixture(scope="module")
def runs(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The folders of the same run in one process and in two."""
    folder = tmp_path_factory.mktemp("processes")
    for processes in (1, 2):
        arguments = fit_arguments(image_folder, "--experiment", str(processes), "--trainer.devices", str(processes))
        arguments += ["--data.batch_size", "10", "--data.augmentation.horizontal_flip", "true"]
        arguments += ["--trainer.log_every_n_steps", "4", "--trainer.max_epochs", "2", "--test_after_fit", "true"]
        arguments += ["--trainer.strategy", "ddp"] if processes > 1 else []
        done = subprocess.run(
            [sys.executable, "-m", "lightning_transfer", *arguments],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "recommended to use" not in done.stderr
    return {processes: folder / "logs" / str(processes) / "version_0" for processes in (1, 2)}


@pytest.mark.slow
def test_weights_are_those_of_one_process_on_the_same_global_batches(runs: dict[int, Path]) -> None:
    one, two = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for folder in runs.values()
    )
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_metrics_are_those_of_one_process_and_written_once(runs: dict[int, Path]) -> None:
    one, two = (json.loads((folder / "results.json").read_text()) for folder in runs.values())
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["validation"] == pytest.approx(one["validation"], abs=1e-6)
    assert two["test"]["test/accuracy"] == one["test"]["test/accuracy"]
    for folder in runs.values():
        assert len(list(folder.parent.iterdir())) == 1
