"""What a training changed, by layer group: distances against the checkpoints, similarities against their definition."""

from pathlib import Path

import pytest
import torch
from conftest import UNBOUNDED, fit_arguments, run_folder

from lightning_transfer import SeedCNN
from lightning_transfer.cli.entry import main
from lightning_transfer.dashboards.layer_changes import linear_cka
from lightning_transfer.report.run_files import read_run
from lightning_transfer.report.run_report import report


def test_cka_is_one_for_a_rotation_and_small_for_what_has_nothing_to_do_with_it() -> None:
    generator = torch.Generator().manual_seed(0)
    features, others = torch.randn(200, 6, generator=generator), torch.randn(200, 3, generator=generator)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    assert linear_cka(features, 3 * features @ rotation + 5) == pytest.approx(1)
    found = linear_cka(features, others)
    assert found is not None
    assert found < 0.1
    x, y = (each - each.mean(0) for each in (features, others))
    expected = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    assert found == pytest.approx(float(expected), rel=1e-4)
    assert linear_cka(features, torch.ones(200, 3)) is None


def test_distances_are_those_from_the_starting_weights_and_what_is_frozen_stays(image_folder: Path) -> None:
    main(fit_arguments(image_folder, "--version", "a"))
    start = Path("logs/default/a/checkpoints/best.ckpt")
    options = ["--config", "configs/strategies/linear_probe.yaml", "--init_from", str(start), "--version", "b"]
    main(fit_arguments(image_folder, *UNBOUNDED, *options))
    run = read_run(Path("logs/default/b"), "b")
    found = run.data["change/layer_groups_data"]
    assert [name.removeprefix("network.") for name in found["groups"]] == [*SeedCNN(3).layer_groups]
    assert found["examples"] == 9
    assert found["distances"][:-1] == [0, 0, 0, 0]
    assert found["similarities"][:-1] == [pytest.approx(1)] * 4
    weights = [
        torch.load(file, weights_only=True)["state_dict"]
        for file in (start, Path("logs/default/b/checkpoints/last.ckpt"))
    ]
    before, after = (
        torch.cat([each[f"network.head.{name}"].flatten() for name in ("weight", "bias")]) for each in weights
    )
    assert found["distances"][-1] == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-4)
    assert 0 < found["similarities"][-1] < 1
    assert "change/layer_groups" in run.images
    assert "What the training changed" in report([run], "b")


def test_run_that_resumes_takes_its_changes_back(image_folder: Path) -> None:
    main(fit_arguments(image_folder, "--version", "a", *UNBOUNDED))
    assert "change/layer_groups" in read_run(Path("logs/default/a"), "a").images
    more = ["--ckpt_path", "logs/default/a/checkpoints/last.ckpt", "--trainer.max_epochs", "2", *UNBOUNDED]
    arguments = [argument for argument in fit_arguments(image_folder) if argument not in ("--trainer.max_epochs", "1")]
    main([*arguments, *more, "--version", "a"])
    run = read_run(Path("logs/default/a"), "a")
    assert "attribution/grad_cam" in run.images
    assert "change/layer_groups" not in run.images
    assert "What the training changed" not in report([run], "a")


def test_changes_can_be_switched_off(image_folder: Path) -> None:
    main(fit_arguments(image_folder, *UNBOUNDED, "--dashboards.changes", "false"))
    run = read_run(run_folder(), "run")
    assert not [tag for tag in (*run.images, *run.data) if tag.startswith("change/")]
