"""What a run says while it trains."""

import argparse
import io
import json
import logging
import os
import pty
import re
import sys
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from conftest import fit_arguments, run_folder
from test_cli import error_line

from lightning_transfer import Classifier, SeedCNN
from lightning_transfer.cli.entry import main
from lightning_transfer.run.verbosity import (
    add_verbosity_options,
    hush_lightning,
    output_of_a_command,
    print_result,
    print_styled,
    verbosity,
)

GRADUAL = {"class_path": "lightning_transfer.ProgressiveUnfreezing", "init_args": {"until": {"steps": 3}}}
ARGUMENTS = [
    "--trainer.max_epochs",
    "2",
    "--trainer.callbacks+",
    json.dumps(GRADUAL),
    "--trainer.log_every_n_steps",
    "3",
]


class Peaking(Classifier):
    """Logs a number that is highest in the sixth epoch."""

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.log("peak", -abs(self.current_epoch - 5.0))


def weights() -> Path:
    torch.save(SeedCNN(3).state_dict(), "weights.pt")
    return Path("weights.pt")


@pytest.fixture
def finished(image_folder: Path) -> Path:
    main(fit_arguments(image_folder, "--dashboards", "null"))
    return run_folder()


def argparse_like(words: list[str]) -> None:
    add_verbosity_options(parser := argparse.ArgumentParser())
    parser.parse_args(words)


def rows(output: str) -> list[dict[str, str]]:
    """The rows of the table of epochs by the names of its columns; a cell is empty where its epoch has no number."""
    found: list[dict[str, str]] = []
    ends: dict[str, int] = {}
    for line in output.splitlines():
        if line.split()[:2] == ["epoch", "seconds"]:
            ends = {name[0]: name.end() for name in re.finditer(r"\S+", line)}
        elif ends and re.match(r" +(best )?\d+/\d+ ", line):
            starts = [0, *ends.values()]
            found.append(
                {name: line[start:end].strip() for start, (name, end) in zip(starts, ends.items(), strict=False)}
            )
    return found


def test_epochs_stand_in_columns_with_phase_learning_rate_and_time_left(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(fit_arguments(image_folder, *ARGUMENTS))
    first, last, best = rows(capsys.readouterr().out)
    assert (first["epoch"], last["epoch"]) == ("1/2", "2/2")
    assert best == {**(first if "1/2" in best["epoch"] else last), "epoch": best["epoch"]}
    assert best["epoch"].startswith("best ")
    assert (first["phase"], first["lr"], last["phase"], last["left"]) == ("3/5", "0.01", "5/5", "0:00:00")
    assert re.fullmatch(r"0:\d\d:\d\d", first["left"])
    assert re.fullmatch(r"\d\.\d{4}", last["val/accuracy"])


def test_run_of_many_epochs_is_told_in_twenty_lines_without_what_says_nothing(
    image_folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    many = ["--trainer.max_epochs", "40", "--trainer.enable_model_summary", "null", "--test_after_fit", "true"]
    main(fit_arguments(image_folder, *many, "--dashboards", "null", "--trainer.check_val_every_n_epoch", "20"))
    said = capfd.readouterr()
    logged = said.err + "".join(f"{words}\n" for words in caplog.messages)
    lines = [line for line in (said.out + logged).splitlines() if line and not line.startswith("Generating")]
    assert len(lines) <= 20, "\n".join(lines)
    assert "training examples by class" in logged
    for noise in ("GPU available", "Seed set", "Tip:", "smaller than the logging", "`Trainer.fit` stopped", "FLOPs"):
        assert noise not in said.out + logged
    table = rows(said.out)
    assert [row["epoch"] for row in table][:7] == ["1/40", "7/40", "14/40", "20/40", "27/40", "34/40", "40/40"]
    # The numbers of another epoch are not repeated.
    assert [row["epoch"] for row in table[:7] if row.get("val/loss")] == ["20/40", "40/40"]


def test_best_epoch_has_a_row_unless_it_was_before_the_resume(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--trainer.limit_train_batches", "1", "--dashboards", "null", "--version", "run"]
    peak = ["--checkpoint.monitor", "peak", "--checkpoint.mode", "max", "--model", "test_progress.Peaking"]
    arguments = fit_arguments(image_folder, *short, *peak, "--trainer.max_epochs", "24")
    main(arguments)
    *_, best = rows(capsys.readouterr().out)
    assert best["epoch"] == "best 6/24"
    main([*arguments, "--trainer.max_epochs", "27", "--ckpt_path", "last"])
    assert [row["epoch"] for row in rows(capsys.readouterr().out)] == ["27/27"]


def test_verbose_shows_every_epoch_and_what_lightning_says(
    image_folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    many = ["--trainer.max_epochs", "8", "--trainer.enable_model_summary", "null", "--dashboards", "null"]
    main(fit_arguments(image_folder, *many, "--trainer.limit_train_batches", "1", "--verbose"))
    said = capfd.readouterr()
    assert [line.split()[1] for line in said.out.splitlines() if line.startswith("epoch ")][-1] == "8/8"
    assert sum(line.startswith("epoch ") for line in said.out.splitlines()) == 8
    assert "Params" in said.out
    assert "GPU available" in said.err + caplog.text


def test_quiet_prints_the_last_table_alone(
    image_folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    main(fit_arguments(image_folder, "--dashboards", "null", "--quiet"))
    said = capfd.readouterr()
    assert said.out.split()[0] == "validation"
    assert "epoch " not in said.out.split("\n1 epoch in")[0]
    assert said.err + caplog.text == ""


def test_json_is_an_object_a_line_the_epochs_and_then_the_record(
    image_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    main(fit_arguments(image_folder, *ARGUMENTS, "--json", "--init_from", str(weights())))
    said = capfd.readouterr()
    *epochs, record = [json.loads(line) for line in said.out.splitlines()]
    assert [(epoch["event"], epoch["epoch"], epoch["epochs"]) for epoch in epochs] == [("epoch", 1, 2), ("epoch", 2, 2)]
    assert (epochs[0]["phase"], epochs[0]["phases"], epochs[1]["seconds_left"]) == (3, 5, 0)
    assert epochs[1]["val/accuracy"] == record["validations"][1]["val/accuracy"]
    written = json.loads((Path(record["folder"]) / "results.json").read_text())
    assert {name: value for name, value in record.items() if name not in ("event", "folder")} == written
    assert "starting weights" in said.err
    assert (
        not {"verbose", "quiet", "json"} & yaml.safe_load((Path(record["folder"]) / "config.yaml").read_text()).keys()
    )


def test_evaluation_prints_its_metrics_as_json(finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = ["--config", str(finished / "config.yaml"), "--ckpt_path", str(finished / "checkpoints/best.ckpt")]
    capfd.readouterr()
    main(["test", *run, "--json"])
    metrics = json.loads(capfd.readouterr().out)
    assert metrics["event"] == "test"
    assert 0 <= metrics["test/accuracy"] <= 1
    main(["test", *run, "--quiet"])
    assert f"{metrics['test/accuracy']:.4f}" in capfd.readouterr().out


def test_two_answers_to_how_much_is_printed_are_refused(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_line(capsys, *fit_arguments(image_folder, "--quiet", "--json"))
    assert line == "--quiet and --json are given: expected one of verbose, quiet, json"


def test_command_within_a_command_has_its_own_choice(capsys: pytest.CaptureFixture[str]) -> None:
    with output_of_a_command():
        argparse_like(["--json"])
        with output_of_a_command():
            assert verbosity() == "normal"
        print("words")
        print_result("words", {"loss": float("nan")})
        assert verbosity() == "json"
    assert verbosity() == "normal"
    assert capsys.readouterr() == ('{"loss": null}\n', "words\n")


def test_command_says_a_warning_once_and_another_command_says_it_again(recwarn: pytest.WarningsRecorder) -> None:
    for words in ("a file is left out", "another is"):
        with output_of_a_command():
            for _ in range(2):
                with warnings.catch_warnings():  # after which Python has forgotten what it said
                    warnings.warn("a file is left out", stacklevel=1)
                warnings.warn(words, stacklevel=1)
    assert [str(warning.message) for warning in recwarn] == ["a file is left out", "a file is left out", "another is"]


@pytest.mark.slow
def test_bar_in_a_terminal_says_the_same(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = fit_arguments(image_folder, *ARGUMENTS)
    said = bytearray()

    def read(descriptor: int) -> bytes:
        said.extend(data := os.read(descriptor, 4096))
        return data

    monkeypatch.setenv("COLUMNS", "200")
    status = pty.spawn([sys.executable, "-m", "lightning_transfer", *arguments], read)
    assert status == 0, said.decode()
    assert re.search("\x1b\\[1m *epoch +seconds", said.decode())
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode())
    # The table stands above the bar.
    assert re.findall(r" ([12]/2|best [12]/2) +\d+\.\d +\d/5 ", text)[:2] == ["1/2", "2/2"]
    assert re.search("\x1b\\[1;32m +best [12]/2 ", said.decode())
    assert re.search(r"phase: [1-5]/5 lr: 0\.01", text)
    assert "left: 0:" in text


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that says nothing of colours."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return monkeypatch


@pytest.mark.parametrize(
    ("stream", "environment", "expected"),
    [
        (Terminal, {}, "\x1b[32mtext [1] :smile:\x1b[0m\n"),
        (Terminal, {"NO_COLOR": "1"}, "text [1] :smile:\n"),
        (Terminal, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, "text [1] :smile:\n"),
        (Terminal, {"TERM": "dumb"}, "text [1] :smile:\n"),
        (io.StringIO, {}, "text [1] :smile:\n"),
        (io.StringIO, {"FORCE_COLOR": "1"}, "\x1b[32mtext [1] :smile:\x1b[0m\n"),
    ],
)
def test_colors_are_for_terminals_unless_asked_for_or_forbidden(
    stream: type[io.StringIO], environment: dict[str, str], expected: str, plain: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        plain.setenv(name, value)
    print_styled("text [1] :smile:", "green", shown := stream())
    assert shown.getvalue() == expected


def test_file_has_no_colors_even_where_they_are_forced(plain: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain.setenv("FORCE_COLOR", "1")
    with (tmp_path / "log.txt").open("w") as file:
        print_styled("text", "green", file)
    assert (tmp_path / "log.txt").read_text() == "text\n"


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_option_for_machines_has_no_colors(option: str, plain: pytest.MonkeyPatch) -> None:
    plain.setenv("FORCE_COLOR", "1")
    plain.setattr(sys, "stdout", shown := Terminal())
    with output_of_a_command():
        argparse_like([option])
        print_styled("errors", "red", said := Terminal())
        print_result("result", {"event": "result"}, conclusion="a beats b")
    assert "\x1b" not in shown.getvalue() + said.getvalue()
    assert shown.getvalue() == {"--quiet": "result\na beats b\n", "--json": '{"event": "result"}\n'}[option]


def test_conclusion_and_error_stand_out_on_a_terminal(plain: pytest.MonkeyPatch) -> None:
    plain.setattr(sys, "stdout", shown := Terminal())
    plain.setattr(sys, "stderr", said := Terminal())
    print_result("a table", conclusion="a beats b")
    assert shown.getvalue() == "a table\n\x1b[1;32ma beats b\x1b[0m\n"
    for words in (["report", "nowhere"], ["report", "--bogus"]):
        with pytest.raises(SystemExit):
            main(words)
    lines = said.getvalue().splitlines()
    assert len(lines) == 2
    assert all(line.startswith("\x1b[31mlightning-transfer: error: ") and line.endswith("\x1b[0m") for line in lines)


def test_run_of_a_study_is_heard_though_the_log_of_the_run_before_is_closed() -> None:
    logger, closed = logging.getLogger("lightning.pytorch.of_a_test"), io.StringIO()
    closed.close()
    handler = logging.StreamHandler(closed)
    logger.addHandler(handler)
    hush_lightning()
    logger.removeHandler(handler)
    assert handler.stream is sys.stderr
