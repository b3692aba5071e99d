"""A study from its file to its report: resumed, retried, killed at any moment, always the same table."""

import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY
from study_toys import toy_study

from lightning_transfer.cli.entry import main
from lightning_transfer.study.cells import Cell

MEASURED = ("validation", "test", "steps", "epochs", "validations", "data")  # what a result says but for its clock
REPORT = Path("logs/toy/report/toy.md")


def write_study(**changes: Any) -> list[str]:
    """Writes a toy study, and gives the arguments that run it."""
    Path("study.yaml").write_text(yaml.safe_dump(asdict(toy_study(**changes)), sort_keys=False))
    return ["study", "--config", "study.yaml"]


def small(**changes: Any) -> list[str]:
    """Four final runs and four of tuning."""
    return write_study(**{"sizes": [2], **changes})


def table(logs: str = "logs") -> dict[str, dict[str, Any]]:
    """What each run measured, by its name."""
    results = {file.parent.name: json.loads(file.read_text()) for file in Path(logs, "toy").glob("*/results.json")}
    return {name: {key: result[key] for key in MEASURED} for name, result in results.items()}


def was_resumed(name: str) -> bool:
    """Whether the run that finished went on from a checkpoint."""
    return "--ckpt_path" in json.loads(Path("logs/toy", name, "results.json").read_text())["command"]


def changed_times() -> dict[str, int]:
    return {file.parent.name: file.stat().st_mtime_ns for file in Path("logs/toy").glob("*/results.json")}


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    return line.removeprefix("lightning-transfer: error: ")


@pytest.mark.slow
def test_finished_runs_are_never_run_again_and_an_unfinished_one_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    study = small()
    main([*study, "--workers", "0"])
    output = capsys.readouterr().out
    assert re.findall(r"^\d+/9", output, re.MULTILINE) == [f"{number}/9" for number in range(1, 10)]
    assert "left" in next(line for line in output.splitlines() if line.startswith("1/9"))
    assert (Path("logs/toy/report/toy.html")).exists()
    first, times = table(), changed_times()
    assert len(first) == 1 + 2 * 2 + 2 * 2
    main([*study, "--workers", "0", "--report_only"])
    assert "Command: `lightning-transfer study --config study.yaml --workers 0`" in REPORT.read_text()

    (Path("logs/toy/full-size_2-seed_1") / "results.json").unlink()
    main([*study, "--workers", "0"])
    assert re.findall(r"^\d+/9 +\S+", capsys.readouterr().out, re.MULTILINE) == ["9/9  full-size_2-seed_1"]
    assert table() == first
    again = changed_times()
    assert {name for name in times if again[name] != times[name]} == {"full-size_2-seed_1"}
    assert was_resumed("full-size_2-seed_1")

    main([*study, "--workers", "0"])
    assert changed_times() == again
    base = Path("base.yaml")
    base.write_text(base.read_text().replace("batch_size: 32", "batch_size: 16"))
    assert "batch_size of base.yaml 32, and now it is 16" in error_of([*study, "--workers", "0"], capsys)
    assert changed_times() == again


@pytest.mark.slow
def test_failed_run_is_reported_kept_and_retried_by_request(capsys: pytest.CaptureFixture[str]) -> None:
    strategy = Path("broken.yaml")
    strategy.write_text("model: {init_args: {warmup_fraction: 7.0}}")
    strategies = {"scratch": "configs/strategies/scratch.yaml", "broken": "broken.yaml"}
    study = [*small(strategies=strategies, tuning=None, weights={"none": None}), "--workers", "0"]
    main(study)
    output = capsys.readouterr().out
    assert output.count("FAILED: model.warmup_fraction is 7.0") == 2
    assert "2 failed, 0 not run" in Path("logs/toy/report/toy.md").read_text()
    assert "warmup_fraction is 7.0" in Path("logs/toy/broken-size_2-seed_0/log.txt").read_text()
    times = changed_times()

    main(study)
    assert "FAILED" not in capsys.readouterr().out
    # Something outside the study's settings was at fault, a full disk for instance: the settings stay the same.
    for cell in Path("logs/toy").glob("broken*"):
        facts = json.loads((cell / "cell.json").read_text())
        facts["settings"]["configs"][1] = {}
        (cell / "cell.json").write_text(json.dumps(facts))
    strategy.write_text("{}")
    main([*study, "--retry_failed"])
    assert len(table()) == 4
    assert "missing" not in Path("logs/toy/report/toy.md").read_text()
    again = changed_times()
    assert all(again[name] == times[name] for name in times)


@pytest.mark.slow
def test_worker_that_dies_costs_one_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Path("deadly.py").write_text(
        "import os, lightning\n"
        "class Dies(lightning.Callback):\n"
        "    def on_train_start(self, trainer, module):\n"
        "        os._exit(7)\n"
    )
    Path("dying.yaml").write_text("trainer: {callbacks+: {class_path: deadly.Dies}}")
    monkeypatch.syspath_prepend(Path.cwd())
    strategies = {"scratch": "configs/strategies/scratch.yaml", "dying": "dying.yaml"}
    study = small(strategies=strategies, tuning=None, weights={"none": None}, seeds=[0])
    main([*study, "--workers", "1"])
    assert "dying-size_2-seed_0  FAILED: its process ended with exit status 7" in capsys.readouterr().out
    assert set(table()) == {"scratch-size_2-seed_0"}


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    study = small()
    assert error_of([*study, "--seed", "[1]"], capsys) == "unknown option 'seed': did you mean seed_keys or seeds?"
    assert "expected 0 or more" in error_of([*study, "--workers", "-1"], capsys)
    assert "is not one of the strategies scratch, full" in error_of([*study, "--baseline", "x"], capsys)
    assert "nothing to report" in error_of([*study, "--report_only"], capsys)
    assert "name" in error_of(["study"], capsys)


def test_help_explains_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["study", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for option in ("--strategies", "--sizes", "--seeds", "--baseline", "--tuning", "--overrides", "--retry_failed"):
        assert option in text


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts the command line in a process of its own, which does not outlive the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, pause_seconds: float = 0) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}", "OMP_NUM_THREADS": "1"}
        environment["PAUSE_SECONDS"] = str(pause_seconds)
        command = [sys.executable, "-m", "lightning_transfer", *arguments]
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def descendants(pid: int) -> list[int]:
    """The processes that this one has started, and theirs: workers are children of a server."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [grandchild for child in children for grandchild in descendants(child)]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second where it ends between open and read
        return False


def wait_for(condition: Any, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def is_new(files: str, begun: float) -> bool:
    """Whether a run of the study has written such a file since."""
    return any(file.stat().st_mtime > begun for file in Path("logs/toy").glob(files))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for orphans in /proc")
def test_study_killed_at_random_moments_gives_the_table_of_the_uninterrupted_one(
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    # Long enough to be killed within runs, with enough of them to be killed between, and too long to end before.
    study = small(overrides={"trainer": {"max_epochs": 20, "callbacks+": {"class_path": "study_toys.Pause"}}})
    main([*study, "--workers", "0", "--logs", "uninterrupted"])
    moments = random.Random(0)
    # The pretraining is over too soon after its first checkpoint.
    for workers, sign in (("2", "*/cell.json"), ("0", "tune-*/checkpoints/last.ckpt")):
        begun = time.time()
        process = start(*study, "--workers", workers, pause_seconds=0.2)
        wait_for(lambda: process.poll() is not None or is_new(sign, begun), 300, "a run to begin")  # noqa: B023
        time.sleep(moments.uniform(0, 1))
        assert process.poll() is None, "the study was over before it was killed"
        started = descendants(process.pid)
        process.kill()
        process.wait()
        wait_for(lambda: not any(map(is_alive, started)), 60, "the workers to end with their parent")  # noqa: B023
    process = start(*study, "--workers", "2")
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    assert table() == table("uninterrupted")
    assert any(map(was_resumed, table())), "no run was killed between its first checkpoint and its end"


def test_second_study_in_the_same_folder_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    from filelock import FileLock

    study = small()
    Path("logs/toy").mkdir(parents=True)
    with FileLock("logs/toy/.lock"):
        assert "another study is running in logs/toy" in error_of(study, capsys)


def test_folder_that_cannot_be_written_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    study = small()
    Path("file").touch()
    message = "cannot write to file/toy: Not a directory; choose another folder with --logs"
    assert error_of([*study, "--logs", "file"], capsys) == message
    message = "cannot write to file/page: Not a directory; choose another folder with --report_folder"
    assert error_of([*study, "--report_folder", "file/page"], capsys) == message
    assert not Path("logs").exists()  # before any run


def test_cell_without_a_whole_checkpoint_starts_anew_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = Cell("name", tmp_path, "final", ("fit",), {}, ())
    assert cell.resume() == []
    checkpoint = tmp_path / "name" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"PK\x03\x04 half a checkpoint")
    assert cell.resume() == []
    line = f"{checkpoint} is damaged: it is now last.ckpt.damaged, and its run starts from the beginning\n"
    assert capsys.readouterr().out == line
    assert [file.name for file in checkpoint.parent.iterdir()] == ["last.ckpt.damaged"]
