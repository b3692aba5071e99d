"""The soak: its samples say what processes hold, its figures tell what grows, and it stops what it started."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "scripts"))
import soaks.commands
from soaks.commands import Fit, Work
from soaks.figures import draw, figures_of
from soaks.processes import Held, Sample, left_of, read_samples, take_sample

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="it needs Linux")
SCRIPT = REPOSITORY / "scripts" / "soak"
HOLDING = """
import subprocess, sys, time
kept = [open("/dev/null") for _ in range({files})], bytearray(b"x") * ({mebibytes} << 20)
child = subprocess.Popen(["sleep", "60"]) if {has_child} else None
print("ready", flush=True)
time.sleep(60)
"""


def soak(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Runs the script in this process, and gives its status."""
    monkeypatch.setattr("sys.argv", [str(SCRIPT), *arguments])
    status: int = runpy.run_path(str(SCRIPT))["main"]()
    return status


def holding(**what: Any) -> Sample:
    """A sample of a process that holds something."""
    command = [sys.executable, "-c", HOLDING.format(**{"files": 0, "mebibytes": 0, "has_child": False, **what})]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            found = take_sample(process.pid, Path(), 0)
            assert len(left_of(process.pid, 0)) == len(found.processes)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert left_of(process.pid) == []
    return found


def test_sample_has_memory_files_and_threads_of_a_process_and_its_children() -> None:
    empty = holding()
    full = holding(files=20, mebibytes=50, has_child=True)
    assert [len(empty.processes), len(full.processes)] == [1, 2]
    assert 49 < full.processes[0].memory - empty.processes[0].memory < 60
    assert full.processes[0].files - empty.processes[0].files == 20
    assert [process.threads for process in full.processes] == [1, 1]
    assert full.processes[1].memory < 5


def samples(memory: Callable[[float], float], files: Callable[[int], int] = lambda number: 9) -> list[Sample]:
    """Two hours of a command with a process beside it that never changes."""
    beside = Held(2, 100.0, 5, 1)
    return [
        Sample(seconds, [Held(1, memory(seconds / 3600) + number % 3, files(number), 2), beside], seconds)
        for number, seconds in enumerate(range(0, 7201, 10))
    ]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (samples(lambda hours: 500), []),
        (samples(lambda hours: 500 * min(hours, 0.4)), []),  # it grows in the warm-up alone
        (samples(lambda hours: 500, lambda number: 9 + (number in (300, 700))), []),  # for a moment
        (
            samples(lambda hours: 500 + 3 * hours),
            ["memory of all processes grows", "memory of the command itself grows"],
        ),
        (samples(lambda hours: 500, lambda number: 9 + number // 300), ["open files rise"]),
    ],
)
def test_what_grows_after_the_warm_up_is_said(found: list[Sample], words: list[str]) -> None:
    said = figures_of(found).growing()
    assert [line.split(":")[0] for line in said] == words


def test_figures_are_those_of_the_time_after_the_warm_up() -> None:
    figures = figures_of(samples(lambda hours: 500 + 3 * hours, lambda number: 9 + number // 300))
    trend = figures.memory["memory of all processes"]
    assert trend.low < 3 < trend.high < 3.2
    assert trend.low > 2.8
    assert trend.end - trend.start == pytest.approx(3 * 1.5 * 17 / 18, abs=0.1)
    start, end = figures.counts["open files"]
    assert (start.usual, start.fewest, start.most, end.usual, end.most) == (14, 14, 15, 16, 16)
    assert figures.folder == (1800, 7200)


def test_plot_has_every_soak(tmp_path: Path) -> None:
    draw({"fit": samples(lambda hours: 500), "serve": samples(lambda hours: 900)}, tmp_path / "plot.svg")
    plot = (tmp_path / "plot.svg").read_text()
    assert ">fit</text>" in plot
    assert ">serve</text>" in plot


class Toy(Work):
    """Writes a file, and waits."""

    seconds = 60

    def start(self) -> "subprocess.Popen[str]":
        Path("logs").mkdir()
        Path("logs", "file").write_bytes(bytes(2**20))
        Path("output.txt").touch()
        return subprocess.Popen(["sleep", str(self.seconds)], start_new_session=True, text=True)

    def found(self, output: str) -> tuple[dict[str, Any], list[str]]:
        return {"over": self.over.is_set()}, []


class Short(Toy):
    """Ends by itself."""

    seconds = 0


def test_command_works_for_its_time_and_is_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(soaks.commands.WORKS, "fit", Toy)
    assert (
        soak(monkeypatch, "fit", "--hours", "0.0003", "--every", "0.02", "--folder", "soak", "--json", "found.json")
        == 1
    )
    taken = read_samples(Path())  # it works there
    assert len(taken) > 2
    assert taken[-1].folder == 1
    found = json.loads(Path("../found.json").read_text())
    assert found["done"] == {"over": True, "status": -signal.SIGTERM}
    assert found["problems"][0] == "its status is -15"
    assert "its status is -15" in capsys.readouterr().out


def test_command_that_ends_by_itself_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(soaks.commands.WORKS, "fit", Short)
    assert soak(monkeypatch, *["fit", "--folder", "soak"]) == 1
    assert "it has ended by itself" in capsys.readouterr().out


class Begun(Fit):
    """A training of which a checkpoint is there."""

    def start(self) -> "subprocess.Popen[str]":
        process = super().start()
        while process.poll() is None and not Path("logs/quickstart/run/checkpoints/best.ckpt").exists():
            time.sleep(0.1)
        return process


@pytest.mark.slow
def test_soak_of_a_training_ends_it_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(soaks.commands.WORKS, "fit", Begun)
    soak(monkeypatch, *["fit", "--hours", "0.0005", "--every", "0.02", "--folder", "soak", "--json", "found.json"])
    found = json.loads(Path("../found.json").read_text())
    assert found["done"]["status"] == 128 + signal.SIGTERM
    assert found["done"]["steps"] > 0
    assert not [words for words in found["problems"] if not words.startswith("soak: ")]
