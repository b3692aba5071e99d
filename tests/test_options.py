"""The config lines of configs/options: each with every strategy, all at once, and over a resume."""

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import REPOSITORY
from unfreezing_toys import ToyModule, trainer

from lightning_transfer import (
    EarlyStopping,
    LearningWithoutForgetting,
    LowRankAdaptation,
    Plateau,
    SpectralShrinkage,
    StartingPointPenalty,
    UserError,
)
from lightning_transfer.cli.entry import main
from lightning_transfer.run.resumption import Resumption

# All that go together: mixup joins examples, which private training refuses.
OPTIONS = sorted(file for file in (REPOSITORY / "configs" / "options").glob("*.yaml") if file.stem != "private")
FOLDER = REPOSITORY / "configs" / "strategies"
# Those that differ in how they meet a moving average or a callback: test_strategies.py has all of them.
NAMES = (
    "scratch",
    "full",
    "full_discriminative",
    "gradual",
    "gradual_discriminative",
    "linear_probe",
    "lora",
    "wise_ft",
)
STRATEGIES = [FOLDER / f"{name}.yaml" for name in (*NAMES, "wise_ft")]
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


def arguments(strategy: Path, *options: Path) -> list[str]:
    """A short run on the embedded target task: twelve images a class, two batches an epoch."""
    configs = [Path("configs/quickstart_transfer.yaml"), strategy, *options]
    small = ["--data.examples_per_class", "12", "--trainer.log_every_n_steps", "1", *QUIET]
    return ["fit", *(word for config in configs for word in ("--config", str(config))), *small]


def checkpoint(version: str, name: str) -> dict[str, Any]:
    return torch.load(Path("logs/quickstart_transfer", version, "checkpoints", f"{name}.ckpt"), weights_only=True)


def callbacks_of(state: dict[str, Any]) -> list[str]:
    return [name.partition("{")[0] for name in state["callbacks"]]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda path: path.stem)
def test_all_options_together_run_with_strategy(strategy: Path) -> None:
    main([*arguments(strategy, *OPTIONS), "--trainer.max_epochs", "2", "--version", "run"])
    last = checkpoint("run", "last")
    assert {"ExponentialMovingAverage", "EarlyStopping", "BestCheckpoint"} <= set(callbacks_of(last))
    assert ("ProgressiveUnfreezing" in callbacks_of(last)) == (strategy.stem not in ("scratch", "wise_ft"))
    assert "current_model_state" in last  # the average is in its place
    config = yaml.safe_load(Path("logs/quickstart_transfer/run/config.yaml").read_text())
    assert config["data"]["init_args"]["mixing"] == {"mixup_alpha": 0.2, "cutmix_alpha": 1.0}
    assert config["trainer"]["gradient_clip_val"] == 1.0
    results = json.loads(Path("logs/quickstart_transfer/run/results.json").read_text())
    assert 0 <= results["test"]["test/accuracy"] <= 1


@pytest.mark.parametrize("option", OPTIONS, ids=lambda path: path.stem)
def test_option_says_what_it_does_and_runs_alone(option: Path) -> None:
    assert option.read_text().startswith("# Option: ")
    main([*arguments(Path("configs/strategies/gradual.yaml"), option), "--trainer.fast_dev_run", "2"])


def test_early_stopping_without_a_validation_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    run = arguments(Path("configs/strategies/scratch.yaml"), Path("configs/options/early_stopping.yaml"))
    with pytest.raises(SystemExit):
        main([*run, "--data.validation_fraction", "0"])
    assert "early stopping waits for val/loss, and nothing is validated" in capsys.readouterr().err


class Stuck(ToyModule):
    """Does not get better after its first validation."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", 1.0 + self.global_step)


def test_training_that_was_stopped_is_not_resumed_for_another_epoch(tmp_path: Path) -> None:
    stopped, resumed = (trainer(EarlyStopping(patience=2), max_epochs=epochs) for epochs in (9, 20))
    stopped.fit(Stuck())
    stopped.save_checkpoint(tmp_path / "stopped.ckpt")
    resumed.fit(Stuck(), ckpt_path=tmp_path / "stopped.ckpt")
    assert resumed.global_step == stopped.global_step == 18


def test_training_that_was_stopped_goes_on_with_more_patience(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    stopped = trainer(EarlyStopping(patience=2), max_epochs=9)
    stopped.fit(Stuck())
    stopped.save_checkpoint(tmp_path / "stopped.ckpt")
    for patience, steps in ((2, 18), (3, 24), (50, 54)):
        resumed = trainer(EarlyStopping(patience=patience), Resumption(), max_epochs=9)
        caplog.clear()
        with caplog.at_level("INFO"), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            resumed.fit(Stuck(), ckpt_path=tmp_path / "stopped.ckpt")
        assert resumed.global_step == steps
        lines = f"{caplog.text}{capfd.readouterr()}{[str(one.message) for one in warned]}"
        assert ("val/loss did not improve in 2 validations, and patience is 2" in lines) == (patience == 2)
        assert ("step 18, where a callback, such as EarlyStopping, had ended the training" in lines) == (patience == 2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: EarlyStopping(patience=-3), "patience is -3: expected a whole number of at least 0"),
        (lambda: EarlyStopping(patience="3"), "patience is '3': expected a whole number"),
        (lambda: EarlyStopping(min_delta=math.nan), "min_delta is nan: expected a finite number, 0 or more"),
        (
            lambda: Plateau("val/loss", min_delta=math.nan),
            "plateau: min_delta is nan: expected a finite number, 0 or more",
        ),
        (lambda: SpectralShrinkage(count=1.5), "count is 1.5: expected a whole number of at least 1"),
        (lambda: SpectralShrinkage(strength=math.inf), "strength is inf: expected a finite number, 0 or more"),
        (lambda: StartingPointPenalty("1"), "strength is '1': expected a finite number, 0 or more"),
        (
            lambda: LearningWithoutForgetting(temperature=math.inf),
            "temperature is inf: expected a finite number, more than 0",
        ),
        (lambda: LearningWithoutForgetting(temperature=0), "temperature is 0: expected a finite number, more than 0"),
        (lambda: LowRankAdaptation(alpha=True), "alpha is True: expected a whole number of at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()


def test_second_fit_does_not_stop_because_the_first_one_did() -> None:
    stopping = EarlyStopping(patience=2)
    steps = []
    for _ in range(2):
        runner = trainer(stopping, max_epochs=9)
        runner.fit(Stuck())
        steps.append(runner.global_step)
    assert steps == [18, 18]


@pytest.mark.parametrize(("mode", "steps"), [("min", 18), ("max", 24)])
def test_stopping_waits_from_the_best_value_on(mode: Any, steps: int) -> None:
    class Rising(ToyModule):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val/value", [-3.0, -2.0, -2.0, -2.0, -2.0, -2.0][self.current_epoch])

    runner = trainer(EarlyStopping("val/value", mode=mode, patience=2), max_epochs=6)
    runner.fit(Rising())
    assert runner.global_step == steps


@pytest.mark.slow
def test_resumed_run_with_all_options_stops_where_the_uninterrupted_one_stops() -> None:
    impatient = Path("early_stopping.yaml")  # the option, but too impatient for a learning rate that is too high
    impatient.write_text(Path("configs/options/early_stopping.yaml").read_text().replace("patience: 10", "patience: 2"))
    Path("snapshots.yaml").write_text(
        """
trainer:
  callbacks+:
    class_path: lightning.pytorch.callbacks.ModelCheckpoint
    init_args: {filename: "snapshot-{epoch}", every_n_epochs: 1, save_top_k: -1}
"""
    )
    options = [impatient if option.name == impatient.name else option for option in OPTIONS]
    run = arguments(Path("configs/strategies/gradual_discriminative.yaml"), *options, Path("snapshots.yaml"))
    run += ["--model.optimizer.lr", "0.1", "--trainer.max_epochs", "60", "--test_after_fit", "false"]
    main([*run, "--version", "whole"])
    expected = checkpoint("whole", "last")
    assert 2 <= expected["epoch"] < 59
    for epoch in (0, expected["epoch"] - 1, expected["epoch"]):
        snapshot = f"logs/quickstart_transfer/whole/checkpoints/snapshot-epoch={epoch}.ckpt"
        main([*run, "--version", f"from{epoch}", "--ckpt_path", snapshot])
        results = json.loads(Path(f"logs/quickstart_transfer/from{epoch}/results.json").read_text())
        assert results["steps"] == expected["global_step"]
        if epoch == expected["epoch"]:
            continue  # that run was over: nothing is trained, nothing is saved
        resumed = checkpoint(f"from{epoch}", "last")
        for key in ("state_dict", "current_model_state"):
            assert all(torch.equal(value, resumed[key][name]) for name, value in expected[key].items())
