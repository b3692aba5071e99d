"""Every command that is asked to stop ends in one line that says how to go on, and never in a traceback."""

import fcntl
import importlib
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import fit_arguments
from interruptions import last_checkpoint
from launching import FIT, environment
from study_toys import STRATEGIES
from test_study_workers import failures, write_study

from lightning_transfer import CIFAR10, Classifier
from lightning_transfer.cli import experiment
from lightning_transfer.cli.commands import COMMANDS
from lightning_transfer.cli.entry import main
from lightning_transfer.cluster.signals import StopSignals
from lightning_transfer.errors import UserError
from lightning_transfer.study.cells import Cell
from lightning_transfer.study.workers import Workers
from lightning_transfer.transfer.range_test import _RangeTest

ENDING = ["SIGINT", "SIGTERM", "SIGHUP"]


def ask_to_stop(kind: str) -> Any:
    """Makes a function that gets the signal while it runs, whatever its arguments are."""
    return lambda *_, **__: signal.raise_signal(signal.Signals[kind])


@pytest.mark.parametrize("name", COMMANDS)
def test_command_that_is_asked_to_stop_ends_in_one_line(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = COMMANDS[name].module
    own = [*ENDING, "SIGUSR1"] if module else ENDING
    for kind in own:
        target = (importlib.import_module(module), "main") if module else (experiment, "CommandLine")
        monkeypatch.setattr(*target, ask_to_stop(kind))
        with pytest.raises(SystemExit) as status:
            main([name, "logs/a run"])
        assert status.value.code == 128 + signal.Signals[kind]
        command = f"lightning-transfer {name} 'logs/a run'"
        goes_on = name in ("study", "transfer")
        expected = f"go on: {command}" if goes_on else f"{kind}: stopped; start again: {command}"
        assert capsys.readouterr().err.splitlines() == [expected]


@pytest.mark.parametrize("kind", ENDING)
@pytest.mark.parametrize(
    "imported",
    [
        "try: os.kill(os.getpid(), {kind})\nexcept BaseException: raise ImportError('initialization failed')",
        "exec('os.kill(os.getpid(), {kind})')",  # as dataclasses and named tuples are made
    ],
    ids=["error", "exec"],
)
def test_stop_during_the_imports_is_one_line_whatever_they_make_of_it(kind: str, imported: str, tmp_path: Path) -> None:
    code = imported.format(kind=f"signal.{kind}")
    (tmp_path / "jsonargparse.py").write_text(f"import os, signal\n{code}\n")
    variables = environment()
    variables["PYTHONPATH"] = os.pathsep.join([str(tmp_path), variables["PYTHONPATH"]])
    done = subprocess.run([*FIT, "report", "logs"], env=variables, capture_output=True, text=True)
    assert done.returncode == 128 + signal.Signals[kind]
    assert done.stderr == f"{kind}: stopped; start again: lightning-transfer report logs\n"


def assert_begins_again(capsys: pytest.CaptureFixture[str], kind: str, fit: list[str]) -> None:
    """Asserts that a fit ends by the signal that it gets, and says to start it again."""
    with pytest.raises(SystemExit) as status:
        main(fit)
    assert status.value.code == 128 + signal.Signals[kind]
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"{kind}: stopped; start again: lightning-transfer fit")


def test_fit_that_is_asked_to_stop_before_its_first_step_says_to_start_it_again(
    image_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CIFAR10, "prepare_data", ask_to_stop("SIGTERM"))
    assert_begins_again(capsys, "SIGTERM", fit_arguments(image_folder, "--version", "run"))


def test_fit_that_keeps_no_checkpoint_ends_at_once(
    image_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Classifier, "on_train_start", ask_to_stop("SIGUSR1"))
    assert_begins_again(capsys, "SIGUSR1", fit_arguments(image_folder, "--trainer.enable_checkpointing", "false"))


def test_training_that_fails_says_how_to_go_on_if_it_has_saved(
    image_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(module: Classifier) -> None:
        if module.current_epoch == 1:
            raise UserError("it fails")

    monkeypatch.setattr(Classifier, "on_train_epoch_start", fail)
    run = "logs/default/run"
    line = f"{run}/checkpoints/last.ckpt was saved before that; go on: lightning-transfer fit --resume {run}"
    for command, lines in (
        (fit_arguments(image_folder, "--version", "run", "--trainer.max_epochs", "2"), [line]),
        (["fit", "--resume", "run"], []),  # it fails again before its first step
    ):
        with pytest.raises(SystemExit) as status:
            main(command)
        assert status.value.code == 2
        said = capsys.readouterr().err.splitlines()
        assert said[said.index("lightning-transfer: error: it fails") + 1 :] == lines


def test_range_test_is_stopped_by_the_signal_of_schedulers(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_RangeTest, "on_train_batch_end", ask_to_stop("SIGUSR1"))
    with pytest.raises(SystemExit) as status:
        main(["lr-find", *fit_arguments(image_folder)[1:]])
    assert status.value.code == 128 + signal.SIGUSR1
    assert capsys.readouterr().err.splitlines()[-1].startswith("SIGUSR1: stopped; start again: lightning-transfer lr-")


def test_signal_that_came_before_it_was_known_that_nothing_trains_ends_the_command_then() -> None:
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGUSR1)
        with pytest.raises(SystemExit) as status:
            signals.no_training_follows()
    assert status.value.code == 128 + signal.SIGUSR1


def test_once_a_command_ends_only_ctrl_c_hurries_it() -> None:
    with StopSignals() as signals:
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert signals.ended_by == signal.SIGINT


@pytest.mark.parametrize(("kind", "status"), [("SIGINT", 7), ("SIGHUP", 7), ("SIGTERM", 143)])
def test_process_that_was_forked_leaves_what_a_terminal_sends_to_the_first(kind: str, status: int) -> None:
    with StopSignals():
        child = os.fork()
        if child == 0:
            try:
                signal.raise_signal(signal.Signals[kind])
                os._exit(7)
            except BaseException as error:
                os._exit(getattr(error, "code", 1))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == status


def test_end_of_the_terminal_ends_a_command_in_order() -> None:
    script = (
        "import time\nfrom lightning_transfer.cluster.signals import ends_in_one_line\n"
        "with ends_in_one_line(['report']):\n    print('ready', flush=True)\n    time.sleep(60)"
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env=environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    assert b"ready" in os.read(ours, 100)
    os.close(ours)
    assert process.wait(30) == 128 + signal.SIGHUP


def test_stop_that_ends_the_reader_of_the_output_too_keeps_its_status() -> None:
    script = (
        "import os, sys\nfrom lightning_transfer.cluster.signals import ends_in_one_line, say_last\n"
        "reader, writer = os.pipe()\nos.dup2(writer, 1)\nos.close(reader)\n"
        "with ends_in_one_line(['report']):\n    say_last('saved', sys.stdout)\n    raise KeyboardInterrupt"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr == "SIGINT: stopped; start again: lightning-transfer report\n"


class Waiting(Cell):
    """A cell that trains until it is asked to stop, and then saves."""

    def run(self) -> float:
        self.folder.mkdir(parents=True)
        with StopSignals() as signals:
            signals.training = True
            (self.folder / "begun").touch()
            while not signals.received:
                time.sleep(0.01)
        (self.folder / "saved").write_text(signal.Signals(signals.received).name)
        raise SystemExit(128 + signals.received)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "forwarded"), [("SIGINT", "SIGTERM"), ("SIGUSR1", "SIGUSR1")])
def test_study_that_is_asked_to_stop_waits_until_its_workers_have_saved(kind: str, forwarded: str) -> None:
    cell = Waiting("a", Path("logs"), "final", (), {}, ())

    def interrupt() -> None:
        while not (cell.folder / "begun").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.Signals[kind])

    threading.Thread(target=interrupt, daemon=True).start()
    asked = pytest.raises((SystemExit, KeyboardInterrupt))
    with asked, StopSignals(is_training_ahead=False), Workers(1, threads=1) as workers:
        list(workers.run([cell]))
    assert (cell.folder / "saved").read_text() == forwarded


@pytest.mark.slow
def test_end_of_the_terminal_stops_a_study_whose_workers_hear_of_it_too(tmp_path: Path) -> None:
    pause = {"class_path": "interruptions.Interruption", "init_args": {"steps": [3], "kind": "pause"}}
    strategies = {name: STRATEGIES[name] for name in ("scratch", "full")}
    study = write_study(strategies, overrides={"trainer": {"max_epochs": 30, "callbacks+": pause}})
    command = [*FIT, *study, "--workers", "2"]
    with (tmp_path / "output.txt").open("w+") as output:
        process = subprocess.Popen(command, env=environment(), stdout=output, stderr=output, start_new_session=True)
        while not (tmp_path / "interrupted_after_3").exists():
            assert process.poll() is None, (tmp_path / "output.txt").read_text()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGHUP)
        status = process.wait(60)
    said = (tmp_path / "output.txt").read_text()
    assert status == 129, said
    assert "asked to stop: 0 of 2 runs are finished" in said
    assert said.splitlines()[-1] == "go on: lightning-transfer study --config study.yaml --workers 2"
    assert "Traceback" not in said
    assert failures() == []
    steps = [
        last_checkpoint(file.parents[1])["global_step"] for file in Path("logs/toy").glob("*/checkpoints/last.ckpt")
    ]
    assert 3 in steps
