"""Several processes give the answer of one: the same batches, weights and metrics."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest
import torch
from conftest import fit_arguments
from launching import FIT, run

from lightning_transfer.cli.entry import main

pytestmark = pytest.mark.slow  # starts processes

PROCESSES = (1, 3)  # an odd number divides fewer things by chance


def arguments(image_folder: Path, processes: int) -> list[str]:
    several = ["--trainer.strategy", "ddp"] if processes > 1 else []
    devices = ["--trainer.devices", str(processes), *several]
    return fit_arguments(image_folder, *devices, "--data.batch_size", "12", "--data.eval_batch_size", "2")


def output_of(words: list[str], folder: Path, processes: int) -> str:
    """Runs a command in a folder, and gives what it printed: here, where no other process has to run it too."""
    if processes == 1:
        with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as printed:
            main(words)
        return printed.getvalue()
    status, output = run([*FIT, *words], folder)
    assert status == 0, output
    return output


@pytest.fixture(scope="module")
def runs(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The folders of the same run in one process and in several."""
    folder = tmp_path_factory.mktemp("processes")
    more = ["--data.augmentation.horizontal_flip", "true", "--trainer.max_epochs", "3", "--test_after_fit", "true"]
    for processes in PROCESSES:
        command = [*arguments(image_folder, processes), *more, "--version", str(processes)]
        output = output_of([*command, "--trainer.log_every_n_steps", "4"], folder, processes)
        assert "recommended to use" not in output
    return {processes: folder / "logs" / "default" / str(processes) for processes in PROCESSES}


def results(runs: dict[int, Path]) -> list[dict]:
    return [json.loads((folder / "results.json").read_text()) for folder in runs.values()]


def test_weights_are_those_of_one_process_on_the_same_global_batches(runs: dict[int, Path]) -> None:
    one, *others = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for folder in runs.values()
    )
    for other in others:
        torch.testing.assert_close(other, one, rtol=0, atol=1e-6)


def test_validation_metrics_are_those_of_one_process_after_every_epoch(runs: dict[int, Path]) -> None:
    one, *others = results(runs)
    assert [one["processes"], *(other["processes"] for other in others)] == [*PROCESSES]
    assert [entry["epoch"] for entry in one["validations"]] == [0, 1, 2]
    for other in others:
        for ours, theirs in zip(other["validations"], one["validations"], strict=True):
            assert ours == pytest.approx(theirs, rel=0, abs=1e-6)
        assert other["test"]["test/accuracy"] == one["test"]["test/accuracy"]


def test_run_is_written_once(runs: dict[int, Path]) -> None:
    for folder in runs.values():
        assert (folder / "results.json").exists()
        writers = {file.name.split(".")[-2] for file in folder.glob("events.out.tfevents.*")}
        assert len(writers) == 1  # process numbers
    assert len(list(runs[1].parent.iterdir())) == len(PROCESSES)


def test_test_metrics_of_a_checkpoint_are_equal_to_the_last_digit(
    runs: dict[int, Path], image_folder: Path, tmp_path: Path
) -> None:
    found = []
    for processes in PROCESSES:
        command = ["test", *arguments(image_folder, processes)[1:]]
        command += ["--ckpt_path", str(runs[1] / "checkpoints" / "best.ckpt")]
        output = output_of(command, tmp_path, processes)
        found.append(dict(re.findall(r"(test/\w+)\D+([\d.e-]+)", output)))
    assert set(found[0]) == {"test/loss", "test/accuracy", "test/macro_f1", "test/calibration_error"}
    assert found[1:] == found[:1] * len(PROCESSES[1:])
