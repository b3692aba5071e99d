"""The curves of a training: every step is in one of their points, also the last ones and those of a short training."""

import json
from pathlib import Path

import pytest
import torch
from conftest import fit_arguments, run_folder

from lightning_transfer.cli.entry import main
from lightning_transfer.report.run_files import read_run

BARE = ("--dashboards", "null", "--trainer.max_epochs", "3", "--verbose")


def curve(name: str = "train/loss", experiment: str = "default") -> dict[int, float]:
    return dict(read_run(run_folder(experiment), "run").scalars.get(name, []))


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]


def test_epoch_shorter_than_the_interval_has_its_point_and_its_line(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(fit_arguments(image_folder, *BARE, "--trainer.log_every_n_steps", "1"))  # nine steps an epoch
    steps = curve()
    capsys.readouterr()
    main(fit_arguments(image_folder, *BARE, "--experiment", "short"))
    points = curve(experiment="short")
    assert list(points) == [8, 17, 26]
    for end, value in points.items():
        assert value == pytest.approx(sum(steps[step] for step in range(end - 8, end + 1)) / 9, rel=1e-5)
    assert list(curve("train/accuracy", "short")) == list(points)
    for line, value in zip(lines(capsys), points.values(), strict=True):
        assert f"train/loss {value:.4f}" in line


def test_last_interval_of_an_epoch_and_of_a_training_is_logged(image_folder: Path) -> None:
    every = ("--trainer.log_every_n_steps", "4")
    main(fit_arguments(image_folder, *BARE, *every, "--trainer.max_steps", "15"))
    assert list(curve()) == [3, 7, 8, 11, 14]


def test_curve_of_a_run_that_goes_on_in_mid_interval_is_that_of_the_whole(image_folder: Path) -> None:
    keep = {"class_path": "ModelCheckpoint", "init_args": {"filename": "{step}", "every_n_train_steps": 3}}
    keep["init_args"] |= {"save_top_k": -1}  # type: ignore[operator]
    run = fit_arguments(
        image_folder, *BARE, "--trainer.log_every_n_steps", "4", "--trainer.callbacks", json.dumps([keep])
    )
    main(run)
    whole, points = run_folder(), curve()
    assert list(points) == [3, 7, 8, 11, 15, 17, 19, 23, 26]
    for step in (6, 9, 15):  # in an interval, at the end of an epoch, in an interval of a later one
        start = str(whole / "checkpoints" / f"step={step}.ckpt")
        main([*run, "--experiment", f"from_{step}", "--ckpt_path", start])
        assert curve(experiment=f"from_{step}") == {at: value for at, value in points.items() if at >= step}
        last = [torch.load(f / "checkpoints/last.ckpt", weights_only=True) for f in (whole, run_folder(f"from_{step}"))]
        assert all(torch.equal(weight, last[1]["state_dict"][name]) for name, weight in last[0]["state_dict"].items())


def test_line_of_an_epoch_shows_what_was_logged_in_it(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(fit_arguments(image_folder, *BARE, "--trainer.check_val_every_n_epoch", "2"))
    assert ["val/loss" in line for line in lines(capsys)] == [False, True, False]


def test_language_model_has_a_point_for_each_short_epoch(own_folder: Path) -> None:
    main(
        [
            *("fit", "--config", "configs/quickstart_lm.yaml", "--trainer.accelerator", "cpu", *BARE),
            *("--trainer.limit_train_batches", "4", "--trainer.limit_val_batches", "1"),
        ]
    )
    assert list(curve("train/perplexity", "quickstart_lm")) == [3, 7, 11]
    assert all(rate > 0 for rate in curve("train/tokens_per_second", "quickstart_lm").values())
