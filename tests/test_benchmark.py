"""The benchmarks run: what they say of speed is no test's business."""

import importlib
import json
import logging
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "benchmark"


def benchmark(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Runs the script in this process."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    monkeypatch.setattr("sys.argv", [str(SCRIPT), *arguments])
    runpy.run_path(str(SCRIPT))["main"]()


@pytest.mark.slow
def test_every_suite_runs_and_writes_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark(monkeypatch, "--list")
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    # Ranks of peers, and the networks of phases, are torch's and Lightning's own. Startup and the long recipe are
    # several more interpreters. One record recipe is as good as three, whose configs have tests of their own.
    left_out = {"unfreezing.phases", "overhead.start", "lstm.recipe"}
    left_out |= {"cifar10-record.cifar10_96", "cifar10-record.cifar100_75"}
    # Three more interpreters each, and test_serve.py has a short version.
    left_out |= {"serve.images", "serve.texts"}
    # The sentences of a probe are its images again, on slower networks.
    left_out |= {"probe.sentences"}
    # Comparisons with other libraries, and growth, have tests of their own.
    apart = ("compare.", "growth.", "peers.")
    parts = [part for part in listed if part not in left_out and not part.startswith(apart)]
    # It sets the threads and the memory of its process, so it gets one of its own.
    command = [sys.executable, str(SCRIPT), "--quick", *parts, "--json", "found.json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert {"processor", "cores", "torch"} <= set(found["machine"])
    assert list(found["parts"]) == parts
    for name, part in found["parts"].items():
        assert part["rows"], name
        assert part["what"], name


def test_unknown_part_is_refused_with_what_there_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_status:
        benchmark(monkeypatch, "imput")
    assert exit_status.value.code == 2
    assert "imput is not one of input, overhead, cnn" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "has_gpu", "message"),
    [
        ("peers.sst2", False, "--accelerator is gpu: expected a CUDA GPU, and torch sees none"),
        ("cnn.epoch", True, "--accelerator is gpu: expected parts of peers only, not cnn.epoch"),
    ],
)
def test_gpu_that_lacks_or_would_idle_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], part: str, has_gpu: bool, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    with pytest.raises(SystemExit) as exit_status:
        benchmark(monkeypatch, part, "--accelerator", "gpu")
    assert exit_status.value.code == 2
    assert message in capsys.readouterr().err
    assert not Path("logs").exists()


def test_part_and_results_know_the_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    # What the script sets for its process would stay for other tests.
    monkeypatch.setattr(logging.Logger, "setLevel", lambda *_: None)
    monkeypatch.setattr("lightning_transfer.cli.allocation.keep_freed_memory", lambda: None)
    monkeypatch.syspath_prepend(SCRIPT.parent)
    parts = importlib.import_module("benchmarks.peers").PARTS
    monkeypatch.setitem(parts, "sst2", lambda settings: [{"with": settings.accelerator}])
    benchmark(monkeypatch, "peers.sst2", "--accelerator", "gpu", "--json", "found.json")
    found = json.loads(Path("found.json").read_text())
    assert found["settings"]["accelerator"] == "gpu"
    assert found["machine"]["accelerator"] == "a GPU"
    assert found["parts"]["peers.sst2"]["rows"] == [{"with": "gpu"}]
