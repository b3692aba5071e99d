"""A sweep: Optuna chooses settings by validation, prunes, goes on, and only its final runs read the test split."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY
from study_toys import pretend, write_base_config

from lightning_transfer import UserError, run_sweep
from lightning_transfer.study.cells import Cell

optuna = pytest.importorskip("optuna")


def record(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "results.json").read_text())
    return content


def space(trial: Any) -> dict[str, Any]:
    return {"model.init_args.optimizer.init_args.lr": trial.suggest_float("lr", 0.001, 0.1, log=True)}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cells that were run, none of which trains: a trial is the better the nearer its learning rate is to 0.01."""
    names: list[str] = []

    def run(cell: Cell) -> float:
        names.append(cell.name)
        if names.count("trial_2") == 1 and cell.name == "trial_2":
            raise SystemExit(143)
        cell.begin()
        rate = float(cell.settings["arguments"]["model.init_args.optimizer.init_args.lr"])
        if rate < 0.002:
            cell.fail("it diverged")
        else:
            pretend(cell, 1 - abs(rate - 0.01))
        return 1.0

    monkeypatch.setattr(Cell, "run", run)
    return names


def sweep(rates: tuple[float, ...] = (0.05, 0.02, 0.09, 0.001, 0.03), **more: Any) -> Any:
    sampler = optuna.samplers.GridSampler({"lr": rates}, seed=0)
    return run_sweep("mine", [write_base_config()], space, **{"trials": 5, "sampler": sampler, **more})


def test_example_of_the_docs_runs_as_written() -> None:
    [example] = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs/study.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    found = names["sweep"]
    trials = [record(Path(f"logs/my_sweep/trial_{number}")) for number in range(4)]
    assert [trial["test"] for trial in trials] == [None] * 4
    assert {trial["seed"] for trial in trials} == {1000}
    complete = [trial for trial in found.study.trials if trial.state.name == "COMPLETE"]
    best = max(complete, key=lambda trial: trials[trial.number]["validation"]["val/accuracy"])
    assert found.validation == trials[best.number]["validation"]["val/accuracy"] == best.value
    [final] = found.final
    assert final == Path(f"logs/my_sweep/trial_{best.number}-seed_0")
    assert (record(final)["seed"], "test/accuracy" in record(final)["test"]) == (0, True)
    rate = found.settings["model.init_args.optimizer.init_args.lr"]
    assert f"lr: {float(rate)}" in (final / "config.yaml").read_text()


def test_pruned_trial_ends_early_and_keeps_its_record() -> None:
    class SecondOut(optuna.pruners.BasePruner):  # type: ignore[misc]
        def prune(self, study: Any, trial: Any) -> bool:
            return bool(trial.number == 1)

    def longer(trial: Any) -> dict[str, Any]:
        return {**space(trial), "init_from": None, "trainer.max_epochs": 3, "data.examples_per_class": 4}

    found = run_sweep("mine", [write_base_config()], longer, trials=2, pruner=SecondOut())
    states = [trial.state.name for trial in found.study.trials]
    assert states == ["COMPLETE", "PRUNED"]
    assert [record(Path(f"logs/mine/trial_{number}"))["epochs"] for number in (0, 1)] == [3, 1]
    assert len(found.study.trials[0].intermediate_values) == 3
    assert record(found.final[0])["epochs"] == 3


def test_sweep_goes_on_with_the_interrupted_trial_and_runs_nothing_twice(ran: list[str]) -> None:
    with pytest.raises(SystemExit):
        sweep()
    assert ran == ["trial_0", "trial_1", "trial_2"]
    found = sweep(seeds=[0, 1])
    finals = [f"{found.best.name}-seed_{seed}" for seed in (0, 1)]
    assert ran == [*(f"trial_{number}" for number in (0, 1, 2, 2, 3, 4)), *finals]
    states = [trial.state.name for trial in found.study.trials]
    assert (len(states), states.count("FAIL"), states.count("COMPLETE")) == (5, 1, 4)
    assert float(found.settings["model.init_args.optimizer.init_args.lr"]) == 0.02
    again = sweep(seeds=[0, 1])
    assert (again.best, len(ran)) == (found.best, 8)
    more = sweep(rates=(0.0101,), trials=6, seeds=[0])
    assert (more.best.name, ran[8:]) == ("trial_5", ["trial_5", "trial_5-seed_0"])


def test_trials_of_other_settings_are_not_mixed(ran: list[str]) -> None:
    ran.append("trial_2")  # so that none is interrupted
    sweep()
    Path("base.yaml").unlink()
    config = write_base_config(max_epochs=2)
    with pytest.raises(UserError, match=r"was made with trainer\.max_epochs of base\.yaml 1, and now it is 2"):
        run_sweep("mine", [config], space, trials=5)
    write_base_config()
    with pytest.raises(UserError, match="logs/mine has trials of another space"):
        run_sweep("mine", [config], lambda trial: {"model.lr_decay": trial.suggest_float("decay", 1, 3)}, trials=5)


def test_mistakes_are_one_line(ran: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="tuning_seed is 0, which is also one of the seeds"):
        sweep(tuning_seed=0)
    with pytest.raises(UserError, match="trials is 0: expected 1 or more"):
        sweep(trials=0)
    with pytest.raises(UserError, match="no trial of the sweep in logs/mine has finished"):
        sweep(rates=(0.001,), trials=1)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"run_sweep needs optuna, .*pip install 'lightning-transfer\[optuna\]'"):
        sweep()
