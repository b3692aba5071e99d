"""Two ranks that share parameters, gradients and optimizer state: the answer of one process, exact on resume."""

from pathlib import Path

import pytest
import torch
from fsdp_ranks import STEPS, evaluate, train
from launching import start_ranks

from lightning_transfer.report.run_files import read_run

pytestmark = pytest.mark.slow  # starts processes


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the weights and checkpoints of the two ranks."""
    folder = tmp_path_factory.mktemp("fsdp")
    start_ranks("fsdp_ranks.py", folder)
    return folder


# Muon's steps have one size however small a gradient is, so that they show more of the order of its sum.
@pytest.mark.parametrize(("network", "tolerance"), [("cnn", 1e-6), ("lstm", 1e-6), ("muon", 1e-4)])
def test_unfreezing_equals_one_process(network: str, tolerance: float, ranks: Path, tmp_path: Path) -> None:
    sharded = torch.load(ranks / "results.pt", weights_only=True)[f"{network} whole"]
    torch.testing.assert_close(sharded, train(network, tmp_path, devices=1), rtol=0, atol=tolerance)


@pytest.mark.parametrize("network", ["cnn", "lstm"])
def test_evaluation_in_batches_that_do_not_divide_equals_one_process(network: str, ranks: Path, tmp_path: Path) -> None:
    alone = evaluate(network, tmp_path, devices=1)
    sharded = torch.load(ranks / "results.pt", weights_only=True)[f"{network} metrics"]
    assert {name.partition("/")[0] for name in alone} == {"val", "test"}
    assert sharded == pytest.approx(alone, abs=1e-5)
    one, two = (read_run(folder / network, network) for folder in (tmp_path, ranks))
    counts = "validation/confusion_matrix_data"
    assert two.data[counts] == one.data[counts]
    assert two.images.keys() == one.images.keys() - {"change/layer_groups"}  # it reads whole weights on one process
    for name in ("before", "after"):
        places = [folder / network / "projector" / name / "points.tsv" for folder in (tmp_path, ranks)]
        assert len({len(place.read_text().splitlines()) for place in places}) == 1


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
