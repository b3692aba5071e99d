"""docs/tasks.md keeps its word: each task takes a few lines, which run as they stand."""

import csv
import importlib.util
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY
from PIL import Image
from torchvision import models

from lightning_transfer.cli.entry import main

PAGE = (REPOSITORY / "docs" / "tasks.md").read_text()
TASKS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
LESS = {
    "fit": ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_test_batches", "1",
            "--trainer.log_every_n_steps", "1", "--trainer.accelerator", "cpu", "--dashboards", "null"],
    "transfer": ["--source", "quickstart", "little.yaml", "--overrides.trainer.max_epochs", "1",
                 "--overrides.dashboards", "null", "--overrides.trainer.limit_test_batches", "1"],
    "predict": ["--trainer.accelerator", "cpu"],
}  # fmt: skip


def blocks(task: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TASKS[task], re.DOTALL)


def run(task: str) -> None:
    """Writes the files of a task, and runs its commands on less."""
    names = re.findall(r"This is `(\w+\.py)`", TASKS[task])
    for name, text in zip(names, blocks(task, "python"), strict=True):
        Path(name).write_text(text)
    Path("little.yaml").write_text(
        "{trainer: {max_epochs: 1, limit_train_batches: 2, limit_test_batches: 1}, dashboards: null}"
    )
    for line in "".join(blocks(task, "sh")).replace("\\\n", "").splitlines():
        words = shlex.split(line)
        if words[0] == "lightning-transfer":
            main([*words[1:], *LESS[words[1]]])


def record(run: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path("logs", run, "results.json").read_text())
    return content


def test_class_folders_are_learned_from_pretrained_weights_and_new_pictures_predicted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for row in range(40):
        kind = ("cat", "dog")[row % 2]
        for file in (Path("pictures", kind, f"{row}.png"), Path("new", f"{row}.png")):
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (70 + row, 64), (200 * (row % 2), 5 * row, 0)).save(file)
    file = Path("hub", "checkpoints", Path(models.ResNet18_Weights.IMAGENET1K_V1.url).name)  # so it is not downloaded
    file.parent.mkdir(parents=True)
    torch.save(models.resnet18().state_dict(), file)
    monkeypatch.setenv("TORCH_HOME", str(Path.cwd()))
    run("Transfer to class folders of my own")
    run("Predict a folder")
    names: dict[str, Any] = {}
    exec(*blocks("Load and predict from Python", "python"), names)
    assert "test/accuracy" in record("my_images/version_0")["test"]
    assert set(names["found"].labels) <= {"cat", "dog"}
    assert len(list(csv.DictReader(Path("new.csv").read_text().splitlines()))) == 40


@pytest.mark.parametrize(
    ("task", "experiment"), [("My nn.Module", "quickstart"), ("My DataModule with (x, y)", "default")]
)
def test_parts_of_one_s_own_train(task: str, experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path.cwd())
    run(task)
    assert "val/accuracy" in record(f"{experiment}/version_0")["validation"]


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_run_is_in_wandb_offline(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "no_netrc")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    run("Weights & Biases, offline")
    [offline] = Path("logs/quickstart/version_0/wandb").glob("offline-run-*")
    assert f"wandb sync {offline}" in capsys.readouterr().out


def test_three_strategies_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    run("Compare three strategies")
    said = capsys.readouterr().out
    assert all(
        re.search(rf"^{strategy} +0\.\d+ +0\.\d+", said, re.MULTILINE) for strategy in ("scratch", "full", "gradual")
    )


def test_each_task_is_short() -> None:
    assert len(TASKS) == 7
    for task in TASKS:
        assert sum(len(block.splitlines()) for block in blocks(task, "sh")) <= 5, task
        assert sum(len(block.splitlines()) for block in blocks(task, "python")) <= 15, task
