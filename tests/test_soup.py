"""Soups: the weights of finished runs in one checkpoint."""

import json
from pathlib import Path

import pytest
import torch

from lightning_transfer.cli.entry import main
from lightning_transfer.cli.soup import mean_weights
from lightning_transfer.run.reading import read_checkpoint


def test_soup_equals_the_mean_of_its_runs_and_is_an_ordinary_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--trainer.max_epochs", "2", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    small = ["--config", "configs/quickstart_transfer.yaml", "--config", "configs/options/light_dashboards.yaml"]
    runs = []
    for rate in ("0.001", "0.003"):
        main(["fit", *small, *quick, "--data.examples_per_class", "4", "--model.optimizer.lr", rate, "--version", rate])
        runs.append(Path("logs/quickstart_transfer", rate))
    weights = [read_checkpoint(run / "checkpoints" / "best.ckpt")["state_dict"] for run in runs]
    main(["soup", *map(str, runs), "--output", "soup.ckpt", *quick[2:]])
    soup = read_checkpoint("soup.ckpt")
    assert "optimizer_states" not in soup
    for name, value in soup["state_dict"].items():
        torch.testing.assert_close(value, (weights[0][name] + weights[1][name]) / 2)
    found = {line.split()[-3]: line.split()[-1] for line in capsys.readouterr().out.splitlines() if "soup of 2" in line}
    assert found
    main(["soup", *map(str, runs), "--output", "greedy.ckpt", "--recipe", "greedy", *quick[2:]])
    out = capsys.readouterr().out
    assert "soup of 1" in out or "soup of 2" in out
    json.dumps(sorted(read_checkpoint("greedy.ckpt")))


def test_mean_of_weights_is_exact_and_counters_are_the_first_runs() -> None:
    first = {"weight": torch.tensor([1.0, 16777216.0]), "batches": torch.tensor(3)}
    second = {"weight": torch.tensor([2.0, 16777218.0]), "batches": torch.tensor(5)}
    third = {"weight": torch.tensor([6.0, 16777220.0]), "batches": torch.tensor(7)}
    mean = mean_weights([first, second, third])
    assert mean["weight"].tolist() == [3.0, 16777218.0]
    assert mean["weight"].dtype == torch.float32
    assert mean["batches"] == 3
