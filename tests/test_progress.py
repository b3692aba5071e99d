"""What a run says while it trains."""

import json
import os
import pty
import re
import sys
from pathlib import Path

import pytest
from conftest import fit_arguments

from lightning_transfer.cli.entry import main

GRADUAL = {"class_path": "lightning_transfer.ProgressiveUnfreezing", "init_args": {"until": {"steps": 3}}}
ARGUMENTS = [
    "--trainer.max_epochs",
    "2",
    "--trainer.callbacks+",
    json.dumps(GRADUAL),
    "--trainer.log_every_n_steps",
    "3",
]


def test_lines_say_phase_learning_rate_and_time_left(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(fit_arguments(image_folder, *ARGUMENTS))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    assert re.search(r"phase 3/5  lr 0\.01  left 0:\d\d:\d\d  train/loss", lines[0])
    assert "phase 5/5  lr 0.01  left 0:00:00" in lines[1]
    assert "val/accuracy" in lines[1]


@pytest.mark.slow
def test_bar_in_a_terminal_says_the_same(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = fit_arguments(image_folder, *ARGUMENTS)
    said = bytearray()

    def read(descriptor: int) -> bytes:
        said.extend(data := os.read(descriptor, 4096))
        return data

    monkeypatch.setenv("COLUMNS", "200")
    status = pty.spawn([sys.executable, "-m", "lightning_transfer", *arguments], read)
    assert status == 0, said.decode()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode())
    assert re.search(r"phase: [1-5]/5 lr: 0\.01", text)
    assert "left: 0:" in text
