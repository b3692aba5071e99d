"""Two ranks that share parameters, gradients and optimizer state: the answer of one process, exact on resume."""

import sys
from pathlib import Path

import pytest
import torch
from fsdp_ranks import STEPS, train
from launching import HERE, run

pytestmark = pytest.mark.slow  # starts processes


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the weights and checkpoints of the two ranks."""
    folder = tmp_path_factory.mktemp("fsdp")
    status, output = run([sys.executable, str(HERE / "fsdp_ranks.py"), str(folder)], folder)
    assert status == 0, output
    return folder


@pytest.mark.parametrize("network", ["cnn", "lstm"])
def test_unfreezing_equals_one_process(network: str, ranks: Path, tmp_path: Path) -> None:
    sharded = torch.load(ranks / "results.pt", weights_only=True)[f"{network} whole"]
    torch.testing.assert_close(sharded, train(network, tmp_path, devices=1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("network", ["cnn", "lstm"])
def test_resume_between_phases_equals_the_uninterrupted_run(network: str, ranks: Path) -> None:
    results = torch.load(ranks / "results.pt", weights_only=True)
    torch.testing.assert_close(results[f"{network} resumed"], results[f"{network} whole"], rtol=0, atol=0)


def test_checkpoint_is_one_file_that_resumes_in_one_process(ranks: Path, tmp_path: Path) -> None:
    checkpoint = ranks / "cnn_step=7.ckpt"
    assert checkpoint.is_file()
    alone = train("cnn", tmp_path, str(checkpoint), devices=1)
    sharded = torch.load(ranks / f"cnn_step={STEPS}.ckpt", weights_only=True)["state_dict"]
    torch.testing.assert_close(alone, {name: sharded[name] for name in alone}, rtol=0, atol=1e-6)
