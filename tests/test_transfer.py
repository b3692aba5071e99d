"""The command ``transfer``: from pretraining to a table of strategies, interrupted or not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from study_toys import pretend
from test_cli import error_line

from lightning_transfer import run_transfer
from lightning_transfer.cli.entry import main
from lightning_transfer.study import session
from lightning_transfer.study.cells import Cell

RUNS = Path("logs/quickstart_transfer_from_quickstart")


@pytest.fixture
def small() -> list[str]:
    """Arguments that name shortened experiments."""
    for name in ("quickstart", "quickstart_transfer"):
        config = yaml.safe_load(Path("configs", f"{name}.yaml").read_text())
        config["trainer"]["max_epochs"] = 2
        config["data"]["init_args"]["examples_per_class"] = 10
        config["dashboards"] = None
        Path(f"{name}.yaml").write_text(yaml.safe_dump(config))
    return ["--source", "quickstart.yaml", "--target", "quickstart_transfer.yaml"]


def record(run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RUNS / run / "results.json").read_text())
    return found


def table(output: str) -> list[list[str]]:
    """The rows of the table, without the seconds."""
    return [line.split()[:-1] for line in output.split("seconds\n")[1].splitlines()[:3]]


@pytest.mark.slow
def test_finished_runs_are_kept_and_unfinished_ones_resume(
    small: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["transfer", *small, "--strategies", "scratch", "gradual", "--overrides.trainer.log_every_n_steps", "1"]
    main(command)
    first = table(capsys.readouterr().out)
    gradual, scratch = (f"{strategy}_log_every_n_steps=1-seed_0" for strategy in ("gradual", "scratch"))
    assert [row[:-2] for row in first] == [["source", "task"], ["scratch"], ["gradual"]]
    assert first[2][2] == f"{record(gradual)['test']['test/accuracy']:.4f}"
    assert record(gradual)["init_from"] == str(RUNS / "pretrain-quickstart-seed_0" / "checkpoints" / "best.ckpt")
    assert record(scratch)["init_from"] is None
    assert record(gradual)["data"]["train_examples"] == 6 * 10  # the size is that of the experiment

    (RUNS / gradual / "results.json").unlink()  # as if it had been stopped before its end
    shutil.rmtree(RUNS / scratch)
    main(command)
    output = capsys.readouterr().out
    assert table(output) == first
    assert [line.split()[1] for line in output.splitlines() if "/3  " in line] == [scratch, gradual]
    assert "--ckpt_path" in record(gradual)["command"]
    assert "--ckpt_path" not in record(scratch)["command"]


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Cell]]:
    """The command with runs that end at once; gives those that it started."""

    def start(*arguments: str) -> list[Cell]:
        started = []

        def run_here(cells: list[Cell], threads: int | None) -> Any:
            for cell in cells:
                cell.begin()
                pretend(cell, 0.5)
                started.append(cell)
                yield cell, 1.0

        monkeypatch.setattr(session, "run_here", run_here)
        main(["transfer", "--strategies", "full", *arguments])
        return started

    return start


def test_other_values_are_other_runs_from_the_same_pretraining(instant: Callable[..., list[Cell]]) -> None:
    assert [cell.kind for cell in instant("--overrides.model.init_args.lr_decay", "2.6")] == ["pretraining", "final"]
    [other] = instant("--overrides.model.init_args.lr_decay", "1.6")
    assert other.name == "full_lr_decay=1.6-seed_0"
    assert "--model.init_args.lr_decay=1.6" in other.arguments
    assert instant("--overrides.model.init_args.lr_decay=1.6") == []
    [plain] = instant("--overrides", "{}")
    assert plain.name == "full-seed_0"
    [_, with_option] = instant("--target", "configs/quickstart_transfer.yaml", "configs/options/ema.yaml", "--name=ema")
    assert "--config=configs/options/ema.yaml" in with_option.arguments


def test_seed_is_that_of_all_runs_and_of_nothing_else(instant: Callable[..., list[Cell]]) -> None:
    for cell in instant("--seed", "3"):
        assert cell.name.endswith("-seed_3")
        assert "--seed_everything=3" in cell.arguments
        assert not any("split_seed" in argument or "examples_per_class" in argument for argument in cell.arguments)


def test_source_without_a_hold_out_starts_from_its_last_checkpoint(instant: Callable[..., list[Cell]]) -> None:
    pretrained, full = instant()
    last = pretrained.folder / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    last.touch()
    shutil.rmtree(full.folder)
    [again] = instant()
    assert f"--init_from={last}" in again.arguments


def test_weights_take_the_place_of_the_pretraining(instant: Callable[..., list[Cell]]) -> None:
    Path("best.ckpt").touch()
    [full] = instant("--source", "best.ckpt")
    assert "--init_from=best.ckpt" in full.arguments
    assert full.logs == Path("logs/quickstart_transfer_from_best.ckpt")


def test_runs_of_other_settings_are_refused(
    small: list[str], instant: Callable[..., list[Cell]], capsys: pytest.CaptureFixture[str]
) -> None:
    pretrained, full = instant(*small)
    shutil.rmtree(pretrained.folder)
    source = Path("quickstart.yaml")
    source.write_text(source.read_text().replace("max_epochs: 2", "max_epochs: 3"))
    line = error_line(capsys, "transfer", *small, "--strategies", "full")
    assert line.startswith(f"{full.folder} was made with other starting weights.configs.0.trainer.max_epochs: 2, and")


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], small: list[str]) -> None:
    for arguments, line in {
        ("--strategies", "gradually"): "config 'gradually' is neither a file in ",
        ("--strategies", "full", "configs/strategies/full.yaml"): "strategies has full twice",
        ("--strategy", "full"): "unknown option 'strategy': did you mean strategies?",
        ("--source", "nowhere.yaml"): "config 'nowhere.yaml' is neither a file in ",
        ("--source", "a.ckpt", "b.ckpt"): "source is a.ckpt b.ckpt: expected configs of an experiment, or one",
        ("--seed", "one"): "seed is one: expected a whole number",
        ("--workers", "-1"): "--workers is -1: expected 0 or more",
    }.items():
        assert error_line(capsys, "transfer", *arguments).startswith(line)
    assert not Path("logs").exists()


def test_failed_run_is_named_after_the_table(
    small: list[str], instant: Callable[..., list[Cell]], capsys: pytest.CaptureFixture[str]
) -> None:
    _, full = instant(*small)
    (full.folder / "results.json").unlink()
    full.fail("no memory")
    line = error_line(capsys, "transfer", *small, "--strategies", "full")
    assert line == f"{full.folder} failed (no memory), see its log.txt: --retry_failed runs it again"


def test_function_takes_what_the_command_takes(instant: Callable[..., list[Cell]]) -> None:
    instant("--overrides.trainer.max_epochs", "1")
    records = run_transfer(strategies="full", overrides={"trainer": {"max_epochs": 1}})  # all finished before
    assert list(records) == ["source task", "full"]
    assert records["full"]["test"]["test/accuracy"] == 0.5


def test_transfer_ends_with_the_sentence_and_the_report(
    instant: Callable[..., list[Cell]], capsys: pytest.CaptureFixture[str]
) -> None:
    instant("--strategies", "scratch", "full")
    *_, last = capsys.readouterr().out.splitlines()
    assert last == f"scratch and full are equal on the test split (n=1 run each); open {RUNS}/report.html"
    assert (RUNS / "report.html").is_file()


def test_transfer_prints_json_for_machines(
    instant: Callable[..., list[Cell]], capsys: pytest.CaptureFixture[str]
) -> None:
    instant("--json")
    *runs, records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(run["event"], run["done"], run["of"]) for run in runs] == [("run", 1, 2), ("run", 2, 2)]
    assert records["records"]["full"]["test"]["test/accuracy"] == 0.5
