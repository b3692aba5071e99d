"""The benchmarks run: what they say of speed is no test's business."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "benchmark"


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow
def test_every_suite_runs_and_writes_what_it_found(tmp_path: Path) -> None:
    listed = [line.split()[0] for line in benchmark("--list").stdout.splitlines()]
    # Ranks of peers, and the networks of phases, are torch's and Lightning's own; startup is two more interpreters; and
    # one record recipe is as good as three, whose configs have tests of their own.
    left_out = {"unfreezing.phases", "overhead.start", "cifar10-record.cifar10_96", "cifar10-record.cifar100_75"}
    parts = [part for part in listed if part not in left_out]
    done = benchmark("--quick", *parts, "--json", "found.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert {"processor", "cores", "torch"} <= set(found["machine"])
    assert list(found["parts"]) == parts
    for name, part in found["parts"].items():
        assert part["rows"], name
        assert part["what"], name


def test_unknown_part_is_refused_with_what_there_is() -> None:
    done = benchmark("imput")
    assert done.returncode == 2
    assert "imput is not one of input, overhead, cnn" in done.stderr
