"""From pretraining to a table of strategies in one command, interrupted or not."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from conftest import REPOSITORY


def transfer(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "scripts" / "transfer"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def small() -> list[str]:
    """Arguments that name shortened experiments."""
    for name in ("quickstart", "quickstart_transfer"):
        config = yaml.safe_load(Path("configs", f"{name}.yaml").read_text())
        config["trainer"]["max_epochs"] = 2
        config["data"]["init_args"]["examples_per_class"] = 10
        Path(f"{name}.yaml").write_text(yaml.safe_dump(config))
    return ["--source", "quickstart.yaml", "--target", "quickstart_transfer.yaml"]


@pytest.mark.slow
def test_finished_runs_are_kept_and_unfinished_ones_resume(small: list[str]) -> None:
    first = transfer(*small, "--strategies", "scratch", "gradual", "--", "--trainer.log_every_n_steps", "1")
    assert first.returncode == 0, first.stderr
    table = first.stdout.split("seconds\n")[1]
    assert [line.split()[0] for line in table.splitlines()[:3]] == ["source", "scratch", "gradual"]

    [gradual] = Path("logs/quickstart_transfer").glob("gradual*")
    [scratch] = Path("logs/quickstart_transfer").glob("scratch*")
    assert gradual.name == "gradual_from_quickstart_log_every_n_steps_1_seed_0"
    assert json.loads((gradual / "results.json").read_text())["init_from"].startswith("logs/quickstart/pretrained")
    assert json.loads((scratch / "results.json").read_text())["init_from"] is None
    (gradual / "results.json").unlink()  # as if it had been stopped before its end
    shutil.rmtree(scratch)
    second = transfer(*small, "--strategies", "scratch", "gradual", "--", "--trainer.log_every_n_steps", "1")
    assert f"{gradual}: resuming" in second.stdout
    assert f"{scratch}: starting" in second.stdout
    assert second.stdout.count("finished before") == 1

    def accuracies(output: str) -> list[list[str]]:
        return [line.split()[:-1] for line in output.split("seconds\n")[1].splitlines()[:3]]

    assert accuracies(second.stdout) == accuracies(first.stdout)


@pytest.mark.slow
def test_runs_of_other_settings_are_kept_apart_or_refused(small: list[str]) -> None:
    done = transfer(*small, "--strategies", "scratch", "--", "--data.examples_per_class", "4")
    assert done.returncode == 0, done.stderr
    folder = Path("logs/quickstart_transfer/scratch_from_quickstart_examples_per_class_4_seed_0")
    assert (folder / "results.json").exists()
    target = Path("quickstart_transfer.yaml")
    target.write_text(target.read_text().replace("max_epochs: 2", "max_epochs: 3"))
    again = transfer(*small, "--strategies", "scratch", "--", "--data.examples_per_class", "4")
    assert again.stderr.strip() == (
        f"{folder} was made with other settings than quickstart_transfer.yaml: delete it, or choose other --logs"
    )
    assert again.returncode == 1


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Path]]:
    """The script with fits that end at once; gives the folders of those that it started."""
    script = ModuleType("transfer")
    SourceFileLoader("transfer", str(REPOSITORY / "scripts" / "transfer")).exec_module(script)

    def start(*arguments: str) -> list[Path]:
        started = []

        def fit(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
            config = yaml.safe_load(Path(command[command.index("--config") + 1]).read_text())
            started.append(Path("logs", config["experiment"], command[command.index("--version") + 1]))
            started[-1].mkdir(parents=True, exist_ok=True)
            record = {"validation": {}, "test": {}, "fit_seconds": 0, "command": command}
            (started[-1] / "results.json").write_text(json.dumps(record))
            return subprocess.CompletedProcess(command, 0)

        monkeypatch.setattr(subprocess, "run", fit)
        monkeypatch.setattr(sys, "argv", ["transfer", "--strategies", "full", *arguments])
        script.main()
        return started

    return start


def test_other_values_are_other_runs(instant: Callable[..., list[Path]]) -> None:
    values = (["--model.lr_decay", "2.6"], ["--model.lr_decay", "1.6"], ["--model.lr_decay=2.6"])
    folders = {instant("--", *words)[-1].name for words in (*values, ["--model.lr_decay=1.6"])}
    assert len(folders) == 4
    assert instant("--", "--config=configs/options/ema.yaml")
    assert not instant("--", "--config=configs/options/ema.yaml")


def test_source_without_a_hold_out_starts_from_its_last_checkpoint(instant: Callable[..., list[Path]]) -> None:
    pretrained, full = instant()
    last = pretrained / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    last.touch()
    shutil.rmtree(full)
    instant()
    command = json.loads((full / "results.json").read_text())["command"]
    assert command[command.index("--init_from") + 1] == str(last)


def test_results_of_another_source_are_refused_where_that_was_deleted(
    small: list[str], instant: Callable[..., list[Path]]
) -> None:
    pretrained, full = instant(*small)
    shutil.rmtree(pretrained)
    Path("quickstart.yaml").write_text(Path("quickstart.yaml").read_text() + "\n# changed\n")
    with pytest.raises(SystemExit, match=f"{full} was made with other settings than quickstart.yaml: delete it"):
        instant(*small)


def test_folder_without_a_record_is_refused(instant: Callable[..., list[Path]]) -> None:
    pretrained, _ = instant()
    (pretrained / "transfer.json").unlink()
    with pytest.raises(SystemExit, match=f"{pretrained} does not say with which settings it was made: delete it"):
        instant()


def test_unknown_strategy_is_refused_with_those_there_are() -> None:
    done = transfer("--strategies", "gradually")
    assert done.returncode == 2
    assert "strategy 'gradually' is not one of full, full_discriminative, gradual" in done.stderr
