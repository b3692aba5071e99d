"""The record of a run, of any module and any batch."""

import json
import math
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import fit_arguments, run_folder
from interruptions import last_checkpoint
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from test_cli import error_line

from lightning_transfer.cli.entry import main
from lightning_transfer.errors import UserError
from lightning_transfer.files import write_json
from lightning_transfer.report.run_files import Run
from lightning_transfer.report.run_report import report
from lightning_transfer.run import record as results, training_steps
from lightning_transfer.run.best_checkpoint import BestCheckpoint

RECORD = {
    "validation": None,
    "test": None,
    "epochs": 1,
    "fit_seconds": 1.0,
    "train_examples_per_second": 10,
    "device": "cpu",
    "parameters": 1000,
}


class OtherModel(BoringModel):
    """Of someone else: its batches are bare tensors, its metrics have names of their own."""

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("distance", self.step(batch))


OTHERS = ["fit", "--model", "test_results.OtherModel", "--data", f"{BoringDataModule.__module__}.BoringDataModule"]
OTHERS += ["--trainer.accelerator", "cpu", "--version", "run"]
NEAREST = ["--checkpoint.monitor", "distance", "--checkpoint.mode", "min"]


def test_any_module_of_lightning_leaves_a_record(own_folder: Path) -> None:
    main([*OTHERS, "--checkpoint.monitor", "distance", "--trainer.max_epochs", "1"])
    assert (own_folder / "logs/default/run/results.json").is_file()


@pytest.mark.parametrize("more", [[], ["--trainer.max_epochs", "1"], ["--trainer.val_check_interval", "32"]])
def test_monitor_that_a_module_does_not_log_costs_no_training(
    more: list[str], own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_line(capsys, *OTHERS, "--trainer.max_epochs", "2", *more)
    assert line == (
        "checkpoint.monitor is val/accuracy, which OtherModel has not logged: choose one of distance, with"
        " --checkpoint.mode min where less is better"
    )
    steps = last_checkpoint(own_folder / "logs/default/run")["global_step"]
    assert steps == (32 if "32" in more else 64)
    main([*OTHERS, *more, "--checkpoint.monitor", "distance", "--trainer.max_epochs", "2", "--ckpt_path", "last"])
    assert (own_folder / "logs/default/run/checkpoints/best.ckpt").is_file()


def test_run_that_holds_nothing_out_trains_on_everything_and_tests_its_last_weights(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = ["--data.validation_fraction", "0", "--test_after_fit", "true", "--trainer.max_epochs", "2"]
    main(fit_arguments(image_folder, *nothing))
    record = json.loads((run_folder() / "results.json").read_text())
    assert (record["data"]["train_examples"], record["data"]["validation_examples"]) == (90, 0)
    assert (record["validation"], record["best_checkpoint"], record["validations"]) == (None, None, [])
    last = str(run_folder() / "checkpoints" / "last.ckpt")
    main(["test", "--config", str(run_folder() / "config.yaml"), "--ckpt_path", last])
    assert str(record["test"]["test/loss"])[:8] in capsys.readouterr().out
    main(["report", "logs"])


class WorseAgain(BoringModel):
    """Comes nearer in the second epoch, and no longer in the third."""

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("distance", [3.0, 1.0, 2.0][self.current_epoch])


def test_record_has_the_metrics_of_the_best_validation_and_not_of_the_last(own_folder: Path) -> None:
    main([*OTHERS, "--model", "test_results.WorseAgain", "--trainer.max_epochs", "3", *NEAREST])
    record = json.loads((own_folder / "logs/default/run/results.json").read_text())
    assert [entry["distance"] for entry in record["validations"]] == [3, 1, 2]
    assert record["validation"] == {"distance": 1}
    assert 0 < record["train_seconds"] < record["fit_seconds"]  # the rest is validation
    assert torch.load(record["best_checkpoint"], weights_only=True)["epoch"] == 1


def test_table_has_every_metric_of_either_split() -> None:
    record = RECORD | {"validation": {"val/loss": 1.0}, "test": {"test/loss": 2.0, "exact": 0.5}}
    lines = results.table(record, Path("logs/a/b")).splitlines()
    assert lines[1].split() == ["loss", "1.0000", "2.0000"]
    assert lines[2].split() == ["exact", "0.5000"]


def test_record_is_as_readable_as_any_file_of_the_user(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", RECORD)
    (tmp_path / "other").touch()
    assert (tmp_path / "results.json").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_package_installed_inside_a_repository_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--allow-empty", "--message=a"]
    for command in (["init", "--quiet"], commit):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(results, "__file__", str(tmp_path / "results.py"))
    assert results.source_commit() is None
    (tmp_path / "results.py").touch()
    subprocess.run(["git", "add", "results.py"], cwd=tmp_path, check=True)
    assert str(results.source_commit()).endswith("-dirty")  # it is not committed yet
    subprocess.run(["git", *commit], cwd=tmp_path, check=True)
    assert not str(results.source_commit()).endswith("-dirty")


def test_report_of_runs_that_measured_no_accuracy_compares_their_losses() -> None:
    runs = [Run(f"run{number}", {"val/loss": [(1, 2.0), (2, 1.0)]}) for number in range(9)]
    page = report(runs, "nine")
    assert "validation loss" in page
    assert "validation accuracy" not in page
    assert page.count("<figure") == page.count("</figure>")
    assert page.count("<figcaption") == page.count("</figcaption>")


def test_validation_before_the_training_is_no_training_and_not_recorded() -> None:
    recorder = results.ResultsRecorder()
    run = SimpleNamespace(state=SimpleNamespace(fn="fit"), sanity_checking=True)
    recorder.on_validation_start(run, None)
    recorder.on_validation_end(run, None)
    assert recorder.validation_seconds > 0
    assert not recorder.validations


def test_layer_groups_that_never_trained_are_in_the_record_the_report_and_on_the_terminal(
    image_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    thaw = ["--trainer.callbacks+", "ProgressiveUnfreezing", "--trainer.callbacks.until.steps", "4"]
    with pytest.warns(UserWarning, match="never trained: convolution1, convolution2"):
        main(fit_arguments(image_folder, *thaw, "--version", "short"))
    because = "phase 4 of 5 never began: phase 3 ends by 4 steps, and training ended first, after step 9"
    record = json.loads(Path("logs/default/short/results.json").read_text())
    never = ["convolution1", "convolution2"]
    assert record["unfreezing"] == {"phases": 5, "phases_begun": 3, "never_trained": never, "because": because}
    page = report([Run("short", results=record)], "a report")
    assert f"<p>{because[0].upper()}{because[1:]}. Never trained: convolution1, convolution2.</p>" in page


def test_validation_after_the_fit_is_not_recorded() -> None:
    recorder = results.ResultsRecorder()
    recorder.on_validation_end(SimpleNamespace(state=SimpleNamespace(fn="validate"), sanity_checking=True), None)
    assert recorder.validation_seconds == 0


def test_record_of_a_resumed_fit_counts_what_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(perf_counter=lambda: clock.now, now=10.0)
    monkeypatch.setattr(results, "time", clock)
    first, second, test = (results.ResultsRecorder() for _ in range(3))
    first.setup(None, None, "fit")
    first.on_fit_start(None, None)
    first.validations = [{"val/loss": 1.0}]
    clock.now += 4
    saved = first.state_dict()
    second.setup(None, None, "fit")
    clock.now += 100  # the run stands still
    second.load_state_dict(saved)
    second.on_fit_start(None, None)
    clock.now += 3
    second.on_fit_end(None, None)
    assert (second.fit_seconds, second.validations) == (7, [{"val/loss": 1.0}])
    test.setup(None, None, "test")
    test.load_state_dict(saved)
    assert (test.fit_seconds, test.validations) == (0, [])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_loss_that_is_no_finite_number_ends_the_training(value: float) -> None:
    with pytest.raises(UserError, match=f"val/loss is {value} after step 7: the training diverged"):
        training_steps.check_is_finite("val/loss", {"val/loss": torch.tensor(value)}, 7)


def test_monitored_metric_that_is_no_number_ends_the_training() -> None:
    best = BestCheckpoint(monitor="distance")
    run = SimpleNamespace(state=SimpleNamespace(fn="fit"), sanity_checking=False, checkpoint_callbacks=[best])
    run.callback_metrics, run.current_epoch, run.global_step = {"distance": torch.tensor(math.nan)}, 0, 7
    with pytest.raises(UserError, match="distance is nan after step 7"):
        results.ResultsRecorder().on_validation_end(run, None)


def test_record_has_the_metrics_of_the_best_checkpoint_where_others_were_validated_after_the_same_step(
    image_folder: Path,
) -> None:
    end = ["--trainer.callbacks+", "WeightInterpolation", "--trainer.callbacks.coefficients", "[0.0]"]
    often = ["--trainer.val_check_interval", "8", "--trainer.max_steps", "8"]
    main(fit_arguments(image_folder, *end, *often, "--version", "end", "--model.optimizer.lr", "0.03"))
    record = json.loads(Path("logs/default/end/results.json").read_text())
    saved = torch.load(record["best_checkpoint"], weights_only=True)
    *_, before, chosen = record["validations"]
    assert before["step"] == chosen["step"] == saved["global_step"]
    assert before["val/loss"] < chosen["val/loss"]
    [loss] = [state["best_loss"] for name, state in saved["callbacks"].items() if "BestCheckpoint" in name]
    assert record["validation"]["val/loss"] == before["val/loss"] == pytest.approx(loss)
