"""Published figures say how sure they are, and the script that reruns them judges by that."""

import json
import re
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest
from conftest import REPOSITORY

from lightning_transfer.study.statistics import summarise

CONFIGS = sorted((REPOSITORY / "configs").rglob("*.yaml"))
# Those of a study are generated, with the intervals of its report.
TEXTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")), *CONFIGS]
WITH_SPREAD = [text for text in TEXTS if "±" in text.read_text()]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = SourceFileLoader("rerun", str(REPOSITORY / "scripts" / "rerun"))
    module = ModuleType(loader.name)
    loader.exec_module(module)
    return module


@pytest.mark.parametrize("text", WITH_SPREAD, ids=lambda path: path.stem)
def test_every_spread_is_a_95_percent_interval_and_says_of_how_many_runs(text: Path) -> None:
    content = text.read_text()
    assert "95 % interval" in content
    assert "standard deviation" not in content
    # Said in the same block, or in the one before a table.
    blocks = re.split(r"\n\s*\n", content)
    for before, block in zip(["", *blocks], blocks, strict=False):
        lines = block.splitlines() if text.name == "results.md" else [block]
        for line in (line for line in lines if "±" in line):
            said = line if text.name == "results.md" else before + block
            assert re.search(r"n=\d|(three|five) seeds", said), line


def test_figures_with_their_runs_are_what_those_give() -> None:
    content = " ".join("\n".join(text.read_text() for text in WITH_SPREAD).replace("#", " ").split())
    listed = re.findall(
        r"(\d+\.\d+) ± (\d+\.\d+)(?: %)? \((?:n=3\s*(?:seeds)?: )?((?:\d+\.\d\d(?:, |(?=[);])))+)", content
    )
    assert len(listed) >= 4
    for mean, half, values in listed:
        found = summarise(map(float, values.rstrip(", ").split(", ")))
        assert float(mean) == pytest.approx(found.mean, abs=0.056)  # of rounded runs
        assert float(half) == pytest.approx(found.high - found.mean, abs=0.056)


def test_heads_of_single_fits_can_be_rerun(script: ModuleType) -> None:
    figures = {config.stem: script.published(config.read_text()) for config in CONFIGS}
    assert figures["cifar10_cnn"] == ("test/accuracy", 72.0, 0.6, 6)
    assert figures["quickstart_lm"].metric == "val/perplexity"
    found = {name for name, figure in figures.items() if figure is not None}
    assert {"quickstart", "quickstart_text", "cifar100_cnn", "imdb_lstm", "imdb_transfer"} <= found
    for config in CONFIGS:
        if figures[config.stem] is not None:
            command = script.fit_command(config.read_text())
            assert command[:3] == ["fit", "--config", f"configs/{config.name}"]
            assert not [word for word in command if "(" in word or word.endswith(":")]
    assert script.fit_command((REPOSITORY / "configs/imdb_lstm.yaml").read_text())[3:] == [
        "--trainer.precision",
        "bf16-mixed",
    ]


def test_new_runs_are_judged_by_the_prediction_interval(script: ModuleType) -> None:
    figure = script.Figure("test/accuracy", 72.0, 0.6, 6)
    # 0.6 · √7 = 1.59 around the mean for one run, 0.6 · √3 = 1.04 for the mean of three.
    sentence, is_within = script.judge(figure, [70.5])
    assert is_within
    assert sentence == (
        "the new run, 70.50, lies within 70.41 to 73.59, the 95 % prediction interval of 72 ± 0.6 (n=6)"
    )
    assert not script.judge(figure, [70.3])[1]
    assert not script.judge(figure, [70.5, 71.0, 71.0])[1]
    assert script.judge(figure, [71.3, 71.7, 72.9])[1]


def test_rerun_reads_finished_runs_and_ends_with_the_verdict() -> None:
    for seed, accuracy in ((5, 0.92), (6, 0.3)):
        folder = Path(f"logs/quickstart/rerun_seed_{seed}")
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps({"validation": None, "test": {"test/accuracy": accuracy}}))
    command = [sys.executable, str(REPOSITORY / "scripts" / "rerun"), "configs/quickstart.yaml"]
    inside = subprocess.run(command, capture_output=True, text=True, check=False)
    assert inside.returncode == 0, inside.stderr
    assert inside.stdout.startswith("seed 5: 92.00\nthe new run, 92.00, lies within ")
    outside = subprocess.run([*command, "--seeds", "6"], capture_output=True, text=True, check=False)
    assert outside.returncode == 1
    assert "30.00, lies outside " in outside.stdout
    several = subprocess.run(
        [*command[:-1], "configs/quickstart_transfer.yaml"], capture_output=True, text=True, check=False
    )
    assert several.returncode == 2
    assert "the head of configs/quickstart_transfer.yaml has no figure of a fit" in several.stderr
