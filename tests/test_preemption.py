"""A run that is asked to stop stops at a step boundary, and goes on as if nothing had happened."""

import json
import shlex
import signal
import time
from pathlib import Path

import lightning as L
import pytest
from conftest import fit_arguments
from interruptions import assert_equal_runs, curves, last_checkpoint
from test_cli import error_line
from unfreezing_toys import ToyModule, trainer

from lightning_transfer.cli.entry import main
from lightning_transfer.cluster.signals import StopSignals
from lightning_transfer.run.last_checkpoint import LastCheckpoint

UNFREEZING = {
    "class_path": "lightning_transfer.ProgressiveUnfreezing",
    "init_args": {"schedule": "gradual", "until": {"steps": 4}},
}
# Nine batches an epoch, two epochs; each case, and the steps after which to stop.
CASES = {
    "plain": ([], [1, 8, 9]),
    "unfreezing, validation in mid-epoch": (["--trainer.val_check_interval", "4"], [3, 4, 9, 12]),
    "gradient accumulation": (["--trainer.accumulate_grad_batches", "2"], [4, 5]),
    "epochs of one batch": (["--data.batch_size", "81"], [1]),
    "validation every other epoch": (["--trainer.check_val_every_n_epoch", "2"], [9, 14]),
    "a number of steps": (["--trainer.max_epochs", "-1", "--trainer.max_steps", "14"], [13]),
}


def arguments(folder: Path, case: str, version: str, *steps: int, kind: str = "SIGTERM") -> list[str]:
    callbacks = [{"class_path": "interruptions.Interruption", "init_args": {"steps": [*steps], "kind": kind}}]
    callbacks += [UNFREEZING] if case.startswith("unfreezing") else []
    common = ["--trainer.callbacks", json.dumps(callbacks), "--model.optimizer", "torch.optim.AdamW"]
    common += ["--trainer.log_every_n_steps", "2", "--trainer.max_epochs", "2", "--data.augmentation.crop_padding", "2"]
    return fit_arguments(folder, *common, "--version", version, *CASES[case][0])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_stopped_run_goes_on_as_the_uninterrupted_one(case: str, image_folder: Path) -> None:
    main(arguments(image_folder, case, "whole"))
    for step in CASES[case][1]:
        for mark in Path().glob("interrupted_after_*"):
            mark.unlink()
        command = arguments(image_folder, case, f"after_{step}", step)
        with pytest.raises(SystemExit) as status:
            main(command)
        assert status.value.code == 143, step
        # TensorBoard reads files by name: the second, then the number of the file in its process, where 1000 is
        # before 999. Only a test starts the same run twice in one process and second.
        time.sleep(1 - time.time() % 1)
        main([*command, "--ckpt_path", "last"])
        whole, stopped = Path("logs/default/whole"), Path(f"logs/default/after_{step}")
        assert_equal_runs(stopped, whole)
        assert curves(stopped) == curves(whole)


@pytest.mark.parametrize("kind", ["SIGUSR1", "SIGHUP"])
def test_signal_stops_with_its_own_status_right_after_the_step(
    kind: str, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as status:
        main(arguments(image_folder, "plain", "stopped", 5, kind=kind))
    assert status.value.code == 128 + signal.Signals[kind]
    assert last_checkpoint(Path("logs/default/stopped"))["global_step"] == 5
    assert f"{kind}: stopped after step 5, in logs/default/stopped/checkpoints/last.ckpt" in capsys.readouterr().out


def test_ctrl_c_saves_and_ends_with_the_command_that_goes_on(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as status:
        main(arguments(image_folder, "plain", "stopped", 5, kind="SIGINT"))
    assert status.value.code == 130
    assert last_checkpoint(Path("logs/default/stopped"))["global_step"] == 5
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("go on: ")]
    _, _, program, *command = shlex.split(line)
    assert program == "lightning-transfer"
    main(command)
    assert json.loads(Path("logs/default/stopped/results.json").read_text())["steps"] == 18


def test_ctrl_c_waits_in_training_but_a_second_one_or_one_outside_does_not() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopSignals() as signals:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert not signals.received
        signals.training = True
        signal.raise_signal(signal.SIGINT)
        assert signals.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_process_that_ignores_a_signal_goes_on_to(signum: int) -> None:
    before = signal.signal(signum, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            signals.training = True
            signal.raise_signal(signum)
            assert not signals.received
    finally:
        signal.signal(signum, before)


def test_nothing_is_saved_while_gradients_are_added_up_nor_in_an_evaluation(tmp_path: Path) -> None:
    saved = []

    class Noting(LastCheckpoint):
        def _save(self, trainer: L.Trainer) -> None:
            saved.append(trainer.fit_loop.epoch_loop.batch_idx)
            super()._save(trainer)

    with StopSignals() as signals:
        options = {"accumulate_grad_batches": 2, "val_check_interval": 3, "num_sanity_val_steps": 0, "max_epochs": 1}
        runner = trainer(Noting(signals), root=tmp_path, **options)
        runner.fit(module := ToyModule())  # six batches, the validations after the third and the sixth
        assert saved == [5]
        signals.received = signal.SIGUSR1
        runner.validate(module, verbose=False)
    assert saved == [5]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--trainer.check_val_every_n_epoch", "3"],
        ["--trainer.check_val_every_n_epoch", "3", "--data.validation_fraction", "0"],
        ["--trainer.val_check_interval", "4"],
        ["--trainer.val_check_interval", "4", "--data.validation_fraction", "0"],
        ["--trainer.check_val_every_n_epoch", "null", "--trainer.val_check_interval", "13"],
        ["--trainer.max_epochs", "-1", "--trainer.max_steps", "14"],
    ],
    ids=" ".join,
)
def test_last_checkpoint_is_of_the_last_step_however_often_is_validated(
    arguments: list[str], image_folder: Path
) -> None:
    main(fit_arguments(image_folder, "--trainer.max_epochs", "2", *arguments))
    run = Path("logs/default/version_0")
    steps = json.loads((run / "results.json").read_text())["steps"]
    assert last_checkpoint(run)["global_step"] == steps


def test_run_asked_to_stop_in_its_last_step_finishes(image_folder: Path) -> None:
    main(arguments(image_folder, "plain", "finished", 18))
    assert Path("logs/default/finished/results.json").exists()


def test_outside_training_a_signal_to_stop_ends_the_process_and_one_to_requeue_waits() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGUSR1)
        assert signals.received == signal.SIGUSR1
        with pytest.raises(SystemExit) as status:
            signal.raise_signal(signal.SIGTERM)
    assert status.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_last_checkpoint_of_a_run_without_a_name_is_refused(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_line(capsys, *fit_arguments(image_folder, "--ckpt_path", "last"))
    assert line == "--ckpt_path last goes on with a run: name it by --version"


@pytest.mark.parametrize("kept", [["results.json"], ["checkpoints/last.ckpt"]])
def test_start_under_the_name_of_another_run_is_refused(
    kept: list[str], image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, run = fit_arguments(image_folder, "--version", "run"), Path("logs/default/run")
    main(command)
    for name in {"results.json", "checkpoints/last.ckpt"} - {*kept}:
        (run / name).unlink()
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    line = error_line(capsys, *command)
    assert line == f"{run} holds a run already: give another --version, or go on with it by --ckpt_path last"
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == before


@pytest.mark.parametrize("variable", ["SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"])
def test_restarted_job_goes_on_unasked(variable: str, image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = fit_arguments(image_folder, "--version", "job")
    monkeypatch.setenv(variable, "0")
    main(command)
    monkeypatch.setenv(variable, "1")
    main([*command, "--trainer.max_epochs", "2"])
    [first, second] = json.loads(Path("logs/default/job/results.json").read_text())["validations"]
    assert (first["step"], second["step"]) == (9, 18)
