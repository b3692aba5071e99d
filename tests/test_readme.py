"""The README keeps its word: every command and every program in it runs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from PIL import Image

from lightning_transfer import SeedCNN
from lightning_transfer.cli.entry import main

README = (REPOSITORY / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


# The same commands on less: the first epoch of each fit.
LESS = {
    "fit": ["--trainer.max_epochs", "1"],
    "transfer": [
        *("--source", "configs/quickstart.yaml", "one_epoch.yaml", "--strategies", "gradual"),
        *("--overrides.trainer.max_epochs", "1"),
    ],
    "study": ["--tuning", "null", "--seeds", "[0]", "--overrides.trainer.max_epochs", "1", "--workers", "0"],
}
COMMANDS = [shlex.split(line) for block in blocks("sh") for line in block.splitlines()]


def pictures_of_ones_own() -> dict[str, str]:
    """Makes what the README's commands find in /data: class folders of pictures, and new pictures."""
    for row in range(40):
        kind, split = ("cat", "dog")[row % 2], ("train", "train", "train", "test")[row // 2 % 4]
        for file in (Path("pictures", split, kind, f"{row}.png"), Path("new", f"{row}.png")):
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (70 + row, 64), (200 * (row % 2), 5 * row, 0)).save(file)
    return {"/data/pictures": "pictures", "/data/new": "new"}


@pytest.mark.slow
def test_commands_run_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    ours = [command[1:] for command in COMMANDS if command[0] == "lightning-transfer"]
    assert len(ours) >= 6
    Path("one_epoch.yaml").write_text("trainer: {max_epochs: 1}")
    folders = pictures_of_ones_own()
    for arguments in ours:
        arguments = [folders.get(argument, argument) for argument in arguments]
        main([*arguments, *LESS.get(arguments[0], [])])
    assert len(Path("new.csv").read_text().splitlines()) == 41
    assert "accuracy" in capsys.readouterr().out


def test_scripts_are_there_and_executable() -> None:
    scripts = [command[0] for command in COMMANDS if "scripts/" in command[0]]
    assert scripts == ["./scripts/quickstart", "./scripts/test"]
    for script in scripts:
        assert os.access(REPOSITORY / script, os.X_OK), script


def test_program_runs_as_written() -> None:
    [program] = [block for block in blocks("python") if "L.Trainer" in block]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "backbone.2, head" in done.stdout + done.stderr


def test_checkpoint_opens_as_written() -> None:
    main(["fit", "--config", "configs/quickstart.yaml", "--trainer.max_epochs", "1"])
    Path("logs/quickstart/version_0/checkpoints/best.ckpt").rename("best.ckpt")
    [program] = [block for block in blocks("python") if "best.ckpt" in block]
    network = SeedCNN(10)
    exec(program, {"torch": torch, "network": network})
    saved = torch.load("best.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(network.head.weight, saved["network.head.weight"])


def test_phases_in_yaml_can_be_planned(capsys: pytest.CaptureFixture[str]) -> None:
    [phases] = blocks("yaml")
    Path("phases.yaml").write_text(phases)
    main(["plan", "--config", "configs/quickstart.yaml", "--config", "phases.yaml"])
    table = capsys.readouterr().out
    for cell in ("step 0, epoch 0", "plateau of val/loss", "hidden1 0.003, hidden2 0.003, head 0.003"):
        assert cell in table
    assert "MiB" in table
    assert "unknown" not in table  # the batch of bytes went through the data module's hooks, as in fit
    assert not Path("logs").exists()


def test_experiments_of_the_table_are_those_of_the_folder() -> None:
    listed = set(re.findall(r"^\| `(configs/\w+\.yaml)`", README, re.MULTILINE))
    assert listed == {f"configs/{file.name}" for file in (REPOSITORY / "configs").glob("*.yaml")}


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (REPOSITORY / target).exists(), target
