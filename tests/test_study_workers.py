"""Where a study's runs are run: in processes that start others, and in ones that are asked to stop."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from launching import FIT, run
from study_toys import STRATEGIES, toy_study

pytestmark = pytest.mark.slow


def write_study(strategies: dict[str, str], **changes: Any) -> list[str]:
    """Writes a study of one run for each strategy, and gives the arguments that run it."""
    study = toy_study(strategies=strategies, sizes=[2], seeds=[0], tuning=None, weights={"none": None}, **changes)
    Path("study.yaml").write_text(yaml.safe_dump(asdict(study), sort_keys=False))
    return ["study", "--config", "study.yaml"]


def results() -> dict[str, dict[str, Any]]:
    """The results by strategy."""
    files = Path("logs/toy").glob("*/results.json")
    return {file.parent.name.partition("-")[0]: json.loads(file.read_text()) for file in files}


def failures() -> list[str]:
    return [file.parent.name for file in Path("logs/toy").glob("*/failed.json")]


@pytest.mark.parametrize("workers", ["0", "1"])
def test_runs_of_two_processes_follow_one_another_even_after_one_that_failed(workers: str, tmp_path: Path) -> None:
    Path("diverging.yaml").write_text("model: {init_args: {optimizer: {init_args: {lr: 1.0e+30}}}}")
    strategies = {"scratch": STRATEGIES["scratch"], "diverging": "diverging.yaml", "full": STRATEGIES["full"]}
    # Lightning looks every five seconds whether a rank has failed: the last run is there for longer than that.
    study = write_study(strategies, configs=["base.yaml", "configs/hardware/ddp_cpu.yaml"])
    status, output = run([*FIT, *study, "--workers", workers], tmp_path)
    assert status == 0, output
    assert {name: result["processes"] for name, result in results().items()} == {"scratch": 2, "full": 2}
    assert failures() == ["diverging-size_2-seed_0"]
    assert "FAILED: val/loss is nan after step" in output
