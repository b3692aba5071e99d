"""Hardware files, precisions and data that a CPU can run, each pair of them together."""

import json
from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import REPOSITORY, fit_arguments, run_folder
from launching import start_ranks
from matrix_ranks import COMBINATIONS, HARDWARE, name_of, try_out
from test_cli import error_line

from lightning_transfer.cli.entry import main
from lightning_transfer.cli.trainer import check_trainer

pytestmark = pytest.mark.slow  # starts processes


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What went wrong in each combination of two processes."""
    folder = tmp_path_factory.mktemp("matrix")
    (folder / "configs").symlink_to(REPOSITORY / "configs")
    start_ranks("matrix_ranks.py", folder, seconds=500)
    found: dict[str, str] = json.loads((folder / "outcomes.json").read_text())
    return found


@pytest.mark.parametrize(("hardware", "precision", "experiment"), COMBINATIONS)
def test_combination_trains(hardware: str, precision: str, experiment: str, request: pytest.FixtureRequest) -> None:
    if HARDWARE[hardware] == 1:
        assert try_out(hardware, precision, experiment) == ""
    else:
        assert request.getfixturevalue("outcomes")[name_of(hardware, precision, experiment)] == ""


def test_lines_for_speed_combine_and_train_alike(image_folder: Path) -> None:
    lines = ["--model.channels_last", "true", "--trainer.precision", "bf16-mixed", "--data.resident_gib", "0.5"]
    losses = []
    for compiled in ("false", "true"):
        main(fit_arguments(image_folder, *lines, "--model.compile", compiled))
        losses.append(json.loads((run_folder() / "results.json").read_text())["validation"]["val/loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_plan_is_made_with_weights_that_will_be_divided(capsys: pytest.CaptureFixture[str]) -> None:
    configs = ("quickstart_transfer.yaml", "strategies/gradual.yaml", "hardware/fsdp.yaml")
    command = ["plan", *(word for name in configs for word in ("--config", f"configs/{name}"))]
    cpu = ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.precision", "32-true"]
    main([*command, *cpu, "--data.examples_per_class", "4"])
    assert "convolution1" in capsys.readouterr().out


def test_float16_weights_on_a_cpu_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["fit", "--config", "configs/quickstart.yaml", "--config", "configs/hardware/cpu.yaml"]
    line = error_line(capsys, *command, "--trainer.precision", "16-true")
    assert line == "precision 16-true gives non-finite weights on a CPU: choose bf16-true or bf16-mixed"


@pytest.mark.parametrize(("capability", "warned"), [("AVX2", True), ("AVX512", False)])
def test_bfloat16_warns_where_the_cpu_has_no_instructions_for_it(
    capability: str, warned: bool, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    check_trainer(L.Trainer(accelerator="cpu", precision="bf16-mixed", logger=False))
    said = [str(warning.message) for warning in recwarn if "precision" in str(warning.message)]
    assert said == ["precision bf16-mixed: this CPU has no instructions for it, 32-true is many times as fast"] * warned
