"""docs/extend.md keeps its word: each part of one's own takes one short file, and every block of the page runs."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

import lightning_transfer.__main__
from lightning_transfer.cli.entry import main

PAGE = (REPOSITORY / "docs/extend.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
# The last file that the text names before a block is the block's.
FILE = re.compile(r"`(?P<name>my_\w+\.(?:py|yaml))`[^`]*?\n\n```(?:python|yaml)\n(?P<text>.*?)```", re.DOTALL)
LESS = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "1",
        "--trainer.limit_test_batches", "1", "--trainer.log_every_n_steps", "2",
        "--trainer.accelerator", "cpu", "--trainer.enable_model_summary", "false"]  # fmt: skip


@pytest.mark.parametrize("section", SECTIONS)
def test_section_runs_as_written(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path.cwd())
    blocks = re.findall(r"```(\w+)\n", SECTIONS[section])
    files = {match["name"]: match["text"] for match in FILE.finditer(SECTIONS[section])}
    assert len(files) == len(blocks) - blocks.count("sh")  # each block has its file
    for name, text in files.items():
        Path(name).write_text(text)
    commands = re.findall(r"^lightning-transfer (.*)$", SECTIONS[section], re.MULTILINE)
    for number, command in enumerate(commands):
        words = shlex.split(command)
        main([*words, *(LESS if words[0] == "fit" else []), "--version", str(number)])
    [*_, last] = sorted(Path("logs").glob("*/*/results.json"))
    validation = json.loads(last.read_text())["validation"]
    assert "val/loss" in validation
    if section == "A metric":
        assert {"val/auroc", "val/worst_confidence", "val/accuracy"} <= set(validation)
    for name in files:
        sys.modules.pop(Path(name).stem, None)


def test_installed_command_finds_files_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[bool] = []
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(Path.cwd()))])
    for name in ("end_with_parent", "signal.signal"):  # these are of the whole process
        monkeypatch.setattr(f"lightning_transfer.__main__.{name}", lambda *_: None)
    monkeypatch.setattr("lightning_transfer.cli.entry.main", lambda: found.append(str(Path.cwd()) in sys.path))
    lightning_transfer.__main__.main()
    assert found == [True]


def test_each_part_takes_at_most_thirty_lines() -> None:
    blocks = [text for section in SECTIONS.values() for text in re.findall(r"```\w+\n(.*?)```", section, re.DOTALL)]
    assert len(blocks) >= 12
    assert max(len(block.splitlines()) for block in blocks) <= 30


def test_page_has_every_part() -> None:
    parts = ["A network", "A data set", "A strategy", "A loss", "A metric", "A dashboard"]
    assert list(SECTIONS)[:6] == parts
