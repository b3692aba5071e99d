"""The README and the pages that it leads to keep their word: their commands and programs run.

The commands of the README itself are run by scripts/first_hour, in the environment that they make.
"""

import os
import re
import shlex
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import REPOSITORY
from PIL import Image

from lightning_transfer import SeedCNN
from lightning_transfer.cli.commands import COMMANDS
from lightning_transfer.cli.entry import main

DOCS = REPOSITORY / "docs"
PAGES = [*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md")]
README = (REPOSITORY / "README.md").read_text()


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def commands(page: Path, first: int) -> list[list[str]]:
    """The commands of the first blocks of a page."""
    return [shlex.split(line)[1:] for block in blocks(page, "sh")[:first] for line in block.splitlines()]


# The same commands on less: the first epoch of each fit.
LESS = {
    "fit": ["--trainer.max_epochs", "1"],
    "transfer": [
        *("--source", "configs/quickstart.yaml", "one_epoch.yaml", "--strategies", "gradual"),
        *("--overrides.trainer.max_epochs", "1"),
    ],
}


def pictures_of_ones_own() -> dict[str, str]:
    """Makes what the commands find in /data: class folders of pictures, and new pictures."""
    for row in range(40):
        kind, split = ("cat", "dog")[row % 2], ("train", "train", "train", "test")[row // 2 % 4]
        for file in (Path("pictures", split, kind, f"{row}.png"), Path("new", f"{row}.png")):
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (70 + row, 64), (200 * (row % 2), 5 * row, 0)).save(file)
    return {"/data/pictures": "pictures", "/data/new": "new"}


@pytest.mark.slow
def test_commands_of_the_pages_run_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    pages = {"experiments": 1, "transfer": 2, "your-data": 1}
    ours = [command for page, first in pages.items() for command in commands(DOCS / f"{page}.md", first)]
    assert len(ours) >= 10
    Path("one_epoch.yaml").write_text("trainer: {max_epochs: 1}")
    folders = pictures_of_ones_own()
    for arguments in ours:
        arguments = [folders.get(argument, argument) for argument in arguments]
        main([*arguments, *LESS.get(arguments[0], [])])
    assert len(Path("new.csv").read_text().splitlines()) == 41
    assert "accuracy" in capsys.readouterr().out


@pytest.fixture(scope="module")
def first_hour() -> ModuleType:
    loader = SourceFileLoader("first_hour", str(REPOSITORY / "scripts" / "first_hour"))
    module = module_from_spec(spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def test_first_hour_runs_every_command_of_the_readme(first_hour: ModuleType) -> None:
    found = first_hour.commands_of(README)
    assert found[:2] == ["./scripts/quickstart", "source .venv/bin/activate"]
    assert [line for line in found[2:] if line.split()[:2][-1] not in COMMANDS] == []
    assert {line.split()[1] for line in found[2:]} == {"transfer", "fit", "predict", "study"}
    assert os.access(REPOSITORY / found[0], os.X_OK)
    assert (REPOSITORY / ".ci" / "run").read_text().endswith("\n.venv/bin/python scripts/docs\nscripts/first_hour\n")


def test_first_hour_keeps_what_was_sourced_and_ends_at_the_first_command_that_fails(first_hour: ModuleType) -> None:
    Path("set").write_text("word=kept\n")
    lines = ["source ./set", "echo one; echo $word", "ls nowhere", "touch later"]
    environment = {"PATH": os.environ["PATH"]}
    assert first_hour.run_all(lines[:2], {}, Path.cwd(), environment) == ["", "one\nkept\n"]
    with pytest.raises(SystemExit, match=r"status 2 in .*: ls nowhere"):
        first_hour.run_all(lines, {}, Path.cwd(), environment)
    assert not Path("later").exists()


def test_first_hour_compares_what_the_quickstart_prints_with_the_readme(first_hour: ModuleType) -> None:
    page = "```sh\nls\n```\n\n```\n   test  seconds\nfull   0.5   12.3\n1,800 examples\n```\n"
    first_hour.check_quickstart("running\n\n   test  seconds\nfull   0.5    2.3\n20 examples\n", page)
    with pytest.raises(SystemExit, match="expected, as in the README"):
        first_hour.check_quickstart("running\n\n   test  seconds\nfull   0.5    2.3\n20 words\n", page)
    with pytest.raises(SystemExit, match="prints 44 lines: expected at most 20"):
        first_hour.check_quickstart("running\n" * 44, page)
    assert len(first_hour.blocks_of(README, "")) == 1


def test_first_hour_takes_nothing_of_the_developer(first_hour: ModuleType) -> None:
    for name in ("PYTHONPATH", "VIRTUAL_ENV", "LIGHTNING_TRANSFER_MIRROR", "HF_HOME"):
        assert not first_hour.KEPT.fullmatch(name)
    for name in ("PATH", "PIP_INDEX_URL", "HTTPS_PROXY", "https_proxy"):
        assert first_hour.KEPT.fullmatch(name)


def test_readme_is_one_page() -> None:
    assert len(README.splitlines()) <= 110


def test_experiments_page_lists_all_commands() -> None:
    table = re.findall(r"^\| (`.*?`) \|", (DOCS / "experiments.md").read_text(), re.MULTILINE)
    assert [name for row in table for name in re.findall(r"`(\S+?)`", row)] == list(COMMANDS)


def test_program_runs_as_written() -> None:
    [program] = [block for block in blocks(DOCS / "unfreezing.md", "python") if "L.Trainer" in block]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "backbone.2, head" in done.stdout + done.stderr


def test_checkpoint_opens_as_written() -> None:
    main(["fit", "--config", "configs/quickstart.yaml", "--trainer.max_epochs", "1"])
    Path("logs/quickstart/version_0/checkpoints/best.ckpt").rename("best.ckpt")
    [program] = [block for block in blocks(DOCS / "experiments.md", "python") if "best.ckpt" in block]
    network = SeedCNN(10)
    exec(program, {"torch": torch, "network": network})
    saved = torch.load("best.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(network.head.weight, saved["network.head.weight"])


def test_phases_in_yaml_can_be_planned(capsys: pytest.CaptureFixture[str]) -> None:
    phases = blocks(DOCS / "unfreezing.md", "yaml")[0]
    Path("phases.yaml").write_text(phases)
    [command] = commands(DOCS / "unfreezing.md", 1)
    main(command)
    table = capsys.readouterr().out
    for cell in ("step 0, epoch 0", "plateau of val/loss", "hidden1 0.0015, hidden2 0.0015, head 0.0015"):
        assert cell in table
    assert "MiB" in table
    assert "unknown" not in table  # the batch of bytes went through the data module's hooks, as in fit
    assert not Path("logs").exists()


def test_experiments_of_the_table_are_those_of_the_folder_and_are_linked() -> None:
    rows = re.findall(
        r"^\| \[`configs/(\w+\.yaml)`\]\(\.\./configs/(\S+)\) \|", (DOCS / "results.md").read_text(), re.MULTILINE
    )
    assert all(name == target for name, target in rows)
    assert sorted(name for name, _ in rows) == sorted(file.name for file in (REPOSITORY / "configs").glob("*.yaml"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_lists_within_lists_are_lists_on_the_site_too(page: Path) -> None:
    assert re.findall(r"^ {1,3}- .*", page.read_text(), re.MULTILINE) == []  # it takes four blanks
