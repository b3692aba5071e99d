"""Where a study's runs are run: in processes that start others, and in ones that are asked to stop."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from launching import FIT, run
from study_toys import STRATEGIES, Drawing, Noting, toy_study

from lightning_transfer.cli.entry import main
from lightning_transfer.study.workers import Workers

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
    strategies = {"diverging": "diverging.yaml", "scratch": STRATEGIES["scratch"]}
    # Lightning looks every five seconds whether a rank has failed: the last run is there for longer than that.
    study = write_study(strategies, configs=["base.yaml", "configs/hardware/ddp_cpu.yaml"])
    status, output = run([*FIT, *study, "--workers", workers], tmp_path)
    assert status == 0, output
    assert {name: result["processes"] for name, result in results().items()} == {"scratch": 2}
    assert failures() == ["diverging-size_2-seed_0"]
    assert "FAILED: val/loss is nan after step" in output


@pytest.mark.parametrize(
    ("workers", "kind", "status"), [("0", "SIGTERM", 143), ("2", "SIGTERM", 143), ("0", "SIGINT", 130)]
)
def test_run_that_is_asked_to_stop_has_not_failed_and_goes_on_with_the_next_start(
    workers: str, kind: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    interruption = {"class_path": "interruptions.Interruption", "init_args": {"steps": [3], "kind": kind}}
    strategies = {name: STRATEGIES[name] for name in ("scratch", "full")}
    study = write_study(strategies, overrides={"trainer": {"max_epochs": 30, "callbacks+": interruption}})
    with pytest.raises(SystemExit) as stop:
        main([*study, "--workers", workers])
    assert stop.value.code == status
    said = capsys.readouterr()
    assert "the study goes on when it is started again" in said.out
    assert said.err.splitlines()[-1] == f"go on: lightning-transfer study --config study.yaml --workers {workers}"
    assert results() == {}
    main([*study, "--workers", workers])
    assert failures() == []
    found = results()
    assert set(found) == {"scratch", "full"}
    assert any("--ckpt_path" in result["command"] for result in found.values())
    assert {result["steps"] for result in found.values()} == {30}


def test_worker_stays_for_the_next_stage_of_the_study() -> None:
    stages = [[Noting(name, Path("logs"), "final", (), {}, ()) for name in names] for names in ("ab", "c")]
    with Workers(1, threads=1) as workers:
        processes = {process for cells in stages for _, process in workers.run(cells)}
    assert len(processes) == 1
    assert processes != {os.getpid()}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="it needs Linux")
def test_worker_that_has_drawn_a_bar_leaves_no_semaphore_to_the_system_when_it_is_killed() -> None:
    with Workers(1, threads=1) as workers:
        [(_, semaphores)] = workers.run([Drawing("a", Path("logs"), "final", (), {}, ())])
    assert semaphores == 0
