"""The suite of peers notes what a program printed and took, and refuses one that did not train."""

import ast
import importlib
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from conftest import REPOSITORY

from lightning_transfer import LSTMClassifier
from lightning_transfer.cli.entry import main


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The suite of the benchmark."""
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    return importlib.import_module("benchmarks.peers")


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What the suite's programs start from."""
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    return importlib.import_module("benchmarks.peer_jobs")


@pytest.fixture
def accelerators(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What the suite's programs do otherwise on a GPU."""
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    return importlib.import_module("benchmarks.peer_accelerators")


@pytest.fixture
def environments(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The environments of the suite."""
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    return importlib.import_module("benchmarks.environments")


@pytest.mark.parametrize(
    ("line", "accuracy"),
    [
        ('{"event": "epoch", "epoch": 1, "metrics": {"val/loss": 1.5, "val/accuracy": 0.4875}}', 0.4875),
        ('{"event": "end", "validation": {"val/loss": 1.5, "val/accuracy": 0.4875}}', None),
        ("{'eval_loss': '1.495', 'eval_accuracy': '0.4525', 'eval_runtime': '1.6', 'epoch': '1'}", 0.4525),
        ("{'eval_loss': 1.4, 'eval_accuracy': 1.0}", 1.0),
        ("val_accuracy 0.4375\n", 0.4375),
        ("0         1.858139    1.712345    0.379000  00:12     \n", 0.379),
        ("Test: [  15/15]  Time: 0.1 (0.1)  Loss:   1.7 ( 1.74)  Acc@1:  37.500 ( 36.850)  Acc@5: 85.0 (87.0)", 0.3685),
        ("Test: [   0/15]  Time: 0.1 (0.1)  Loss:   1.7 ( 1.74)  Acc@1:  37.500 ( 36.850)  Acc@5: 85.0 (87.0)", None),
        ("Train: 0 [   0/78 (  1%)]  Loss: 2.30 (2.30)", None),
        ("{'loss': '1.4', 'learning_rate': '0.003'}", None),
    ],
)
def test_accuracy_of_an_epoch_is_found_in_what_each_library_prints(
    peers: ModuleType, line: str, accuracy: float | None
) -> None:
    assert peers.accuracy_in(line) == (None if accuracy is None else pytest.approx(accuracy))


@pytest.mark.parametrize(
    ("line", "accuracy"),
    [
        ('{"event": "run", "done": 1, "validation": {"val/accuracy": 0.5}, "test": {"test/accuracy": 0.25}}', 0.25),
        ("scratch 50 0 test_accuracy 0.125\n", 0.125),
        ("{'eval_loss': 1.4, 'eval_accuracy': 1.0}", None),
        ("0         1.858139    1.712345    0.379000  00:12     \n", None),
    ],
)
def test_accuracy_of_a_run_of_a_study_is_that_of_its_test(peers: ModuleType, line: str, accuracy: float | None) -> None:
    assert peers.accuracy_in(line, peers.RUNS) == accuracy


def test_time_and_accuracy_of_each_epoch_are_noted_while_the_program_runs(peers: ModuleType, tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text(
        "import time\nheld = bytearray(64 * 2**20)\nfor epoch in (1, 2, 3):\n    start = time.process_time()\n"
        "    while time.process_time() < start + 0.2:\n        pass\n    print('val_accuracy', epoch / 4, flush=True)\n"
    )
    # The shell's own time is none: that of the program in it counts.
    command = ["bash", "-ec", f"{sys.executable} train.py; true"]
    training, _ = peers.watched(command, tmp_path, dict(os.environ))
    assert [accuracy for _, accuracy in training.marks] == [0.25, 0.5, 0.75]
    assert 0.15 < training.mark_seconds < 0.4
    assert training.seconds_to(0.5) == training.marks[1][0] > 0.35
    assert training.seconds_to(0.9) is None
    assert training.marks[2][0] - 0.1 < training.seconds < 3  # marks are in hundredths of each process
    assert 64 < training.peak < 300  # not that of this process, which has torch


@pytest.mark.parametrize("wall", [False, True])
def test_program_that_waits_takes_wall_time_and_no_cpu_time(peers: ModuleType, tmp_path: Path, wall: bool) -> None:
    program = "import time\nfor epoch in (1, 2):\n    time.sleep(0.5)\n    print('val_accuracy', epoch / 4, flush=True)"
    training, _ = peers.watched([sys.executable, "-I", "-c", program], tmp_path, dict(os.environ), wall=wall)
    assert (training.mark_seconds > 0.25) == wall
    assert (training.seconds > 1) == wall


@pytest.fixture
def trained(peers: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Trains with a program of two epochs that begins with some code, where two of four GPUs are visible."""
    monkeypatch.setattr(peers, "PROGRAMS", tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    (tmp_path / "files").mkdir()

    def train(begins: str, *accelerator: str) -> Any:
        epochs = "for epoch in (1, 2):\n    print('val_accuracy', epoch / 4)\n"
        (tmp_path / "cnn.fastai.py").write_text(begins + epochs)
        return peers.train("cnn", "fastai", Path(sys.executable), tmp_path / "files", tmp_path / "run", *accelerator)

    return train


def test_program_has_the_first_visible_gpu_whose_memory_is_sampled(
    trained: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sampler = tmp_path / "nvidia-smi"
    sampler.write_text('#!/bin/sh\nprintf "500\\n900\\n[N/A]\\n700\\n"\necho "$@" > arguments\nexec sleep 60\n')
    sampler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    begins = (
        "import os, time\nassert os.environ['CUDA_VISIBLE_DEVICES'] == '2'\n"
        "while not os.path.exists('../arguments'):\n    time.sleep(0.01)\n"
    )
    assert trained(begins, "gpu").gpu_peak == 900
    assert Path("arguments").read_text().split()[-2:] == ["--id", "2"]


def test_program_on_the_cpu_has_one_thread_and_no_gpu(trained: Callable[..., Any]) -> None:
    held = "import os\nassert (os.environ['OMP_NUM_THREADS'], os.environ['CUDA_VISIBLE_DEVICES']) == ('1', '')\n"
    assert trained(held).gpu_peak is None


def test_each_program_on_a_gpu_trains_there_in_bfloat16_and_loads_with_workers(
    peers: ModuleType, accelerators: ModuleType
) -> None:
    cpu, unused = re.compile("cpu|num_workers=0|workers 1 "), set(accelerators.ON_GPU)
    for job in peers.JOBS:
        for peer in peers.peers_of(job):
            files = peers.programs(job, peer)
            plain = "\n".join(file.read_text() for file in files)
            assert cpu.search(plain), (job, peer)
            assert accelerators.rewritten(plain, "cpu") == plain
            found = accelerators.rewritten(plain, "gpu")
            assert not cpu.search(found), (job, peer)
            assert re.search("bf16|bfloat16|hardware/gpu", found), (job, peer)
            assert peer != "lightning" or found.count("DataLoader(") == found.count(" num_workers="), job
            unused -= {words for words in unused if words in plain}
            for file in files:
                if file.suffix == ".py":
                    ast.parse(accelerators.rewritten(file.read_text(), "gpu"))
    assert not unused


@pytest.mark.parametrize("job", ["sst2", "resnet18"])
def test_command_of_this_package_on_a_gpu_is_one_that_it_takes(
    peers: ModuleType, accelerators: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], job: str
) -> None:
    for file in peers.programs(job, peers.OURS):
        (tmp_path / f"{job}{file.suffix}").write_text(accelerators.rewritten(file.read_text(), "gpu"))
    words = shlex.split((tmp_path / f"{job}.sh").read_text().replace("\\\n", ""))
    with pytest.raises(SystemExit) as ended:
        main([*(word for word in words[1:] if word != "--json"), "--print_config"])  # which has stdout to itself
    assert not ended.value.code
    trainer = yaml.safe_load(capsys.readouterr().out)["trainer"]
    assert (trainer["accelerator"], trainer["devices"], trainer["precision"]) == ("gpu", 1, "bf16-mixed")
    assert trainer["max_epochs"] == {"sst2": 2, "resnet18": 4}[job]


@pytest.mark.parametrize(
    ("accelerator", "quick", "count"), [("cpu", False, 40), ("gpu", False, 400), ("cpu", True, 4), ("gpu", True, 4)]
)
def test_job_has_more_examples_on_a_gpu_and_few_if_quick(
    peers: ModuleType,
    environments: ModuleType,
    jobs: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    accelerator: str,
    quick: bool,
    count: int,
) -> None:
    counts, asked = [], set()

    def train(*arguments: object) -> object:
        asked.add(arguments[-1])
        arguments[-2].mkdir()
        return peers.Training([(1.0, 0.5), (3.0, 0.5)], 4.0, 900.0)

    job = jobs.Job("a job", 40, 4, 400, "images", 0.5, lambda _, written: counts.append(written))
    monkeypatch.setitem(peers.JOBS, "cnn", job)
    monkeypatch.setattr(peers, "train", train)
    monkeypatch.setattr(environments, "python_of", lambda *_: Path(sys.executable))
    monkeypatch.setattr(environments, "versions", lambda *_: "")
    settings = importlib.import_module("benchmarks.measure").Settings(1, quick, accelerator=accelerator)
    row = peers.measure("cnn", settings)[0]
    assert counts == [count]
    assert asked == {accelerator}
    assert row["images/CPU s" if accelerator == "cpu" else "images/s"] == count / 2


@pytest.mark.parametrize("program", ["1 / 0", "print('val_accuracy 0.5')"])
def test_program_that_fails_or_does_not_train_is_no_measurement(
    peers: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str
) -> None:
    monkeypatch.setattr(peers, "PROGRAMS", tmp_path)
    (tmp_path / "cnn.fastai.py").write_text(program)
    (tmp_path / "files").mkdir()
    with pytest.raises(RuntimeError, match="cnn with fastai failed or told of fewer than two epochs"):
        peers.train("cnn", "fastai", Path(sys.executable), tmp_path / "files", tmp_path / "run")


def test_each_job_is_done_by_this_package_and_by_the_one_that_it_is_compared_with(peers: ModuleType) -> None:
    for job in peers.JOBS:
        assert peers.peers_of(job)[:2] == ["transformers", "lightning-transfer"]
    programs = {file.name for file in peers.PROGRAMS.iterdir()}
    assert programs == {
        file.name for job in peers.JOBS for peer in peers.peers_of(job) for file in peers.programs(job, peer)
    }


def test_page_has_the_lines_and_the_bar_of_each_program(peers: ModuleType) -> None:
    page = (REPOSITORY / "docs" / "performance.md").read_text()
    found = re.findall(r"^\| `(\w+)`(?: \((\d+)%\))?, \**([\w-]+)\** \| (\d+) \|", page, re.MULTILINE)
    shown = {(job, "transformers" if peer == "Trainer" else peer): (bar, int(lines)) for job, bar, peer, lines in found}
    counted = {}
    for name, job in peers.JOBS.items():
        for peer in peers.peers_of(name):
            lines = sum(peers.count_lines(file.read_text()) for file in peers.programs(name, peer))
            counted[name, peer] = ("" if job.bar is None else f"{job.bar:.0%}".rstrip("%"), lines)
    assert shown == counted


def test_row_compares_epochs_with_the_first_and_has_no_time_to_an_accuracy_that_a_turn_missed(
    peers: ModuleType,
) -> None:
    first = [peers.Training([(5.0, 0.3), (25.0, 0.5)], 30.0, 900.0)] * 2
    own = [
        peers.Training([(5.0, 0.5), (10.0, 0.6)], 12.0, 500.0),
        peers.Training([(5.0, 0.1), (10.0, 0.4)], 14.0, 700.0),
    ]
    row = peers.row_of("cnn", "lightning-transfer", own, first, 10_000)
    assert row["time, of the first's"] == 0.25
    assert row["images/CPU s"] == 2000
    assert row["CPU s to 45%"] == "-"
    assert row["CPU s in all"] == 13.0
    assert row["accuracy"] == 0.5
    assert row["peak memory, MiB"] == 700
    assert peers.row_of("cnn", "transformers", first, first, 10_000)["CPU s to 45%"] == 25.0


def test_row_of_a_gpu_has_wall_seconds_and_its_memory_if_something_tells_it(peers: ModuleType) -> None:
    marks = [(5.0, 0.3), (7.0, 0.5)]
    turns = [peers.Training(marks, 8.0, 900.0, gpu_peak) for gpu_peak in (None, 600, 500)]
    row = peers.row_of("cnn", "fastai", turns, turns, 40_000, "gpu")
    assert (row["images/s"], row["s in all"], row["s to 45%"]) == (20_000, 8.0, 7.0)
    assert row["peak GPU memory, MiB"] == 600
    assert not any("CPU" in column for column in row)
    assert peers.row_of("cnn", "fastai", turns[:1], turns[:1], 40_000, "gpu")["peak GPU memory, MiB"] == "-"


def test_row_of_a_study_counts_its_runs_and_has_the_mean_of_their_accuracies(peers: ModuleType) -> None:
    runs = [peers.Training([(5.0, 0.3), (7.0, 0.5), (9.0, 0.4)], 10.0, 900.0)]
    row = peers.row_of("study", "fastai", runs, runs, 1000)
    assert row["runs/CPU s"] == 0.5
    assert row["accuracy"] == pytest.approx(0.4)


def test_lstm_of_the_peers_is_the_one_of_this_package(jobs: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "my_network.py").write_text(jobs.RECURRENT_NETWORK)
    theirs = runpy.run_path(str(tmp_path / "my_network.py"))["Network"](50, 2)
    # As the options of the command say.
    ours = LSTMClassifier(50, 2, pooling="max", embedding_size=100, hidden_size=64, bidirectional=True)
    shapes = [sorted(tuple(each.shape) for each in network.parameters()) for network in (theirs, ours)]
    assert shapes[0] == shapes[1]
    with torch.no_grad():
        for source, target in zip(theirs.parameters(), ours.parameters(), strict=True):
            target.copy_(source)
        token_ids, lengths = torch.randint(1, 50, (3, 7)), torch.tensor([7, 4, 1])
        torch.testing.assert_close(ours(token_ids, lengths), theirs(token_ids, lengths))


def test_environment_sees_the_packages_of_this_one_and_puts_its_own_before_them(
    environments: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands: list[list[str]] = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command))
    monkeypatch.setattr(environments.venv, "create", _without_pip)
    python = environments.python_of("fastai", tmp_path)
    monkeypatch.setattr(subprocess, "run", run)
    code = "import json, sys, torch; print(json.dumps([torch.__file__, sys.path]))"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True)
    found, path = json.loads(done.stdout)
    assert found == torch.__file__
    assert path.index(str(Path(torch.__file__).parents[1])) > next(
        place for place, entry in enumerate(path) if entry.startswith(str(tmp_path)) and "site-packages" in entry
    )
    [command] = commands
    assert command[-2:] == ["fastai", "transformers"]
    pins = (tmp_path / "fastai" / "constraints.txt").read_text().split()
    assert pins == [f"{name}=={version(name).split('+')[0]}" for name in ("torch", "torchvision")]
    # A second call takes what is there.
    assert environments.python_of("fastai", tmp_path) == python
    assert len(commands) == 1


def _without_pip(place: Path, **_: bool) -> None:
    import venv

    venv.EnvBuilder(with_pip=False, symlinks=True).create(place)


def test_pin_leaves_out_the_local_part_of_a_version(environments: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "version", lambda _: "2.14.1+cu130")
    assert environments.public_version("torch") == "2.14.1"


def test_timm_is_left_out_with_what_to_do_where_its_script_lacks(
    environments: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "environments"
    assert environments.python_of("timm", folder) is None
    assert f"git clone https://github.com/huggingface/pytorch-image-models {folder}" in capsys.readouterr().out
    assert not folder.exists()
