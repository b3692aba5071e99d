"""The best and the last checkpoint: what bears their names, whatever the options say."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import fit_arguments, run_folder
from lightning.pytorch.callbacks import ModelCheckpoint
from test_cli import error_line
from test_results import OTHERS
from unfreezing_toys import ToyModule, trainer

from lightning_transfer.cli.entry import main
from lightning_transfer.run.best_checkpoint import BestCheckpoint

# An accuracy that comes and goes: the best epoch is neither the first nor the last.
MOVING = ("--dashboards", "null", "--model.optimizer", "torch.optim.AdamW", "--model.optimizer.lr", "0.04")
MOVING += ("--trainer.max_epochs", "4")


def load(name: str) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(run_folder() / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return saved


@pytest.mark.parametrize(
    "options",
    [
        ["--checkpoint.every_n_train_steps", "4"],
        ["--checkpoint.every_n_epochs", "3", "--trainer.val_check_interval", "3", "--checkpoint.save_last", "true"],
        ["--checkpoint.train_time_interval", "0:0:0", "--checkpoint.monitor", "val/loss"],
        [
            "--checkpoint.save_weights_only",
            "true",
            "--trainer.accumulate_grad_batches",
            "2",
            "--model.optimizer.lr",
            "0.08",
        ],
        ["--checkpoint.save_on_train_epoch_end", "false", "--trainer.check_val_every_n_epoch", "2"],
        ["--checkpoint.save_top_k", "2", "--checkpoint.save_on_exception", "true"],
        ["--checkpoint.filename", "{epoch}", "--checkpoint.save_top_k", "-1"],
    ],
    ids=lambda options: options[0].rpartition(".")[2],
)
def test_best_checkpoint_is_the_best_validated_whatever_the_options(
    options: list[str], image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(fit_arguments(image_folder, *MOVING, *options))
    record = json.loads((run_folder() / "results.json").read_text())
    metric = record["selected_by"]
    sign = 1 if "loss" in metric else -1
    best = min(record["validations"], key=lambda entry: (sign * entry[metric], entry["val/loss"]))
    assert best["step"] < record["steps"] == load("last")["global_step"]
    assert load("best")["global_step"] == best["step"]
    others = {file.name for file in (run_folder() / "checkpoints").iterdir()} - {"best.ckpt", "last.ckpt"}
    if "--checkpoint.filename" in options:
        assert others == {f"epoch={epoch}.ckpt" for epoch in range(4)}
    else:
        assert len(others) == (2 if "--checkpoint.save_top_k" in options else 0)
    capsys.readouterr()
    config, checkpoint = str(run_folder() / "config.yaml"), str(run_folder() / "checkpoints" / "best.ckpt")
    main(["validate", "--config", config, "--ckpt_path", checkpoint])
    output = capsys.readouterr().out
    for value in record["validation"].values():
        assert str(value)[:8] in output


def test_metric_of_the_training_gives_a_best_checkpoint_between_validations(image_folder: Path) -> None:
    often = ["--trainer.log_every_n_steps", "2", "--checkpoint.every_n_train_steps", "2"]
    main(fit_arguments(image_folder, *MOVING, *often, "--checkpoint.monitor", "train/loss"))
    record = json.loads((run_folder() / "results.json").read_text())
    step = load("best")["global_step"]
    assert step % 2 == 0
    validated = [entry for entry in record["validations"] if entry["step"] == step]
    assert bool(validated) == (record["validation"] is not None)  # no others are taken for those of the file


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoint.filename", "last"], "checkpoint.filename is last: last.ckpt is the last checkpoint"),
        (["--checkpoint.dirpath", "elsewhere"], "checkpoint.dirpath is elsewhere: the checkpoints of a run lie in"),
        (["--checkpoint.monitor", "val/loss", "--checkpoint.mode", "max"], "checkpoint.mode is max, and a lower"),
        (["--checkpoint.monitor", "val/gain"], "checkpoint.mode is not given, and the name val/gain does not say"),
    ],
)
def test_option_of_which_best_would_not_be_the_best_is_refused(
    options: list[str], message: str, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error_line(capsys, *fit_arguments(image_folder, *options))
    assert not list(Path("logs").rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("init_args", "message"),
    [
        ({"filename": "best"}, "ModelCheckpoint in trainer.callbacks would write best.ckpt"),
        ({"filename": "last", "dirpath": "logs/default/run/checkpoints"}, "would write last.ckpt, which is the run's"),
        ({"save_last": True, "every_n_train_steps": 2}, "give it no save_last, as last.ckpt is kept in any case"),
        ({"monitor": "val/accuracy"}, "mode of ModelCheckpoint in trainer.callbacks is min, and a higher val/accuracy"),
        ({"filename": "best", "dirpath": "elsewhere"}, None),
        ({"filename": "{epoch}", "save_top_k": -1}, None),
    ],
)
def test_other_callback_leaves_the_names_of_the_best_and_the_last_alone(
    init_args: dict[str, Any], message: str | None, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callback = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": init_args}
    run = fit_arguments(image_folder, "--version", "run", "--trainer.callbacks", json.dumps([callback]))
    if message is None:
        main(run)
    else:
        assert message in error_line(capsys, *run)
        assert not list(Path("logs").rglob("*.ckpt"))


def test_loss_is_minimised_without_being_told(image_folder: Path) -> None:
    main(fit_arguments(image_folder, *MOVING, "--checkpoint.monitor", "val/loss"))
    record = json.loads((run_folder() / "results.json").read_text())
    losses = {entry["step"]: entry["val/loss"] for entry in record["validations"]}
    assert load("best")["global_step"] == min(losses, key=losses.__getitem__)
    assert record["validation"]["val/loss"] == min(losses.values())


def test_without_a_metric_nothing_is_called_best(own_folder: Path) -> None:
    main([*OTHERS, "--checkpoint.monitor", "null", "--trainer.max_epochs", "2"])
    record = json.loads(Path("logs/default/run/results.json").read_text())
    assert record["best_checkpoint"] is None
    assert [file.name for file in Path("logs/default/run/checkpoints").iterdir()] == ["last.ckpt"]


def test_run_that_goes_on_from_before_its_best_does_not_take_what_it_finds_for_the_best(image_folder: Path) -> None:
    other = {"class_path": "ModelCheckpoint", "init_args": {"filename": "{epoch}", "save_top_k": -1}}
    run = fit_arguments(image_folder, *MOVING, "--version", "run", "--trainer.callbacks", json.dumps([other]))
    main([*run, "--checkpoint.monitor", "val/loss"])
    folder = Path("logs/default/run")
    best = folder / "checkpoints" / "best.ckpt"
    found = torch.load(best, weights_only=True)
    assert found["epoch"] > 0
    worse = ["--model.optimizer.lr", "1e-9", "--trainer.max_epochs", "2"]  # nothing is learned after epoch 0
    main([*run, "--checkpoint.monitor", "val/loss", *worse, "--ckpt_path", str(best.with_name("epoch=0.ckpt"))])
    record = json.loads((folder / "results.json").read_text())
    kept = torch.load(best, weights_only=True)
    assert (kept["epoch"], kept["global_step"]) == (1, 18)
    assert record["validation"]["val/loss"] == record["validations"][1]["val/loss"]


def test_run_that_goes_on_from_before_its_best_begins_anew_where_it_finds_nothing_better(tmp_path: Path) -> None:
    class Given(ToyModule):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val/loss", losses[self.current_epoch])

    def run(start: Path | None = None) -> BestCheckpoint:
        best, every = BestCheckpoint("val/loss"), ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        trainer(best, every, root=tmp_path, max_epochs=len(losses), num_sanity_val_steps=0).fit(
            Given(), ckpt_path=start
        )
        return best

    losses = [1.0, 0.9, 0.5]
    assert run().best_step == 18
    losses = [1.0, 3.0]  # the weights of the loss of 1 are gone
    best = run(tmp_path / "epoch=0.ckpt")
    assert torch.load(best.best_model_path, weights_only=True)["global_step"] == best.best_step == 12


@pytest.mark.parametrize("monitor", ["val/accuracy", "val_f1"])
def test_of_equal_values_the_one_with_the_lower_loss_is_the_best(monitor: str, tmp_path: Path) -> None:
    class Given(ToyModule):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            score, loss = values[self.current_epoch]
            self.log_dict({monitor: score, f"{monitor[:4]}loss": loss})

    def best_epoch(start: Path | None = None) -> int:
        every = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, enable_version_counter=False)
        best = BestCheckpoint(monitor)
        trainer(best, every, root=tmp_path, max_epochs=len(values), num_sanity_val_steps=0).fit(
            Given(), ckpt_path=start
        )
        epoch: int = torch.load(best.best_model_path, weights_only=True)["epoch"]
        return epoch

    values = [(0.5, 0.7), (0.5, 0.6), (0.5, 0.65), (0.4, 0.1)]
    assert best_epoch() == 1
    values += [(0.5, float("nan")), (0.5, 0.6)]
    assert best_epoch(tmp_path / "epoch=3.ckpt") == 1  # the loss of the best is in the checkpoint
    values += [(0.5, 0.59)]
    assert best_epoch(tmp_path / "epoch=5.ckpt") == 6
