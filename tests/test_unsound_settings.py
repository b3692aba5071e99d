"""Settings that no run can mean, from the command line and from config files: each is one line, and nothing is run."""

import errno
import os
import re
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, fit_arguments
from study_toys import toy_study
from test_cli import error_line
from test_study_plan import plan_of

from lightning_transfer.cli.loading import load
from lightning_transfer.cli.mistakes import message_of
from lightning_transfer.cluster.launchers import check_address
from lightning_transfer.errors import UserError
from lightning_transfer.files import check_name

QUICK = ["fit", "--config", "configs/quickstart.yaml", "--trainer.max_steps", "1", "--dashboards", "null"]


def from_file(text: str) -> list[str]:
    """A command with the text as its last config."""
    Path("changes.yaml").write_text(text)
    return [*QUICK, "--config", "changes.yaml"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("model: {init_args: {lr_decay: .nan}}", "model.lr_decay is nan: expected a finite number"),
        ("model: {init_args: {warmup_fraction: .inf}}", "model.warmup_fraction is inf: expected a finite number"),
        ("model: {init_args: {optimizer: {init_args: {lr: -.inf}}}}", "model.optimizer.lr is -inf: expected a finite"),
        ("data: {init_args: {std: [1, .inf, 1]}}", "data.std[1] is inf: expected a finite number"),
        ("data: {init_args: {mixing: {cutmix_alpha: .nan}}}", "data.mixing.cutmix_alpha is nan: expected a finite"),
        ("data: {init_args: {resident_gib: .nan}}", "data.resident_gib is nan: expected a finite number"),
        ("trainer: {gradient_clip_val: .nan}", "trainer.gradient_clip_val is nan: expected a finite number"),
        ("model: {init_args: {lr_decay: 1.0e+300}}", "lr_decay is 1e+300: expected 1 to 1000"),
        ("model: {init_args: {lr_decay: 0.5}}", "lr_decay is 0.5: expected 1 to 1000"),
        ("trainer: {gradient_clip_val: -1}", "trainer.gradient_clip_val is -1: expected 0 or more"),
        ("trainer: {min_epochs: -1}", "trainer.min_epochs is -1: expected 0 or more"),
        ("trainer: {log_every_n_steps: -1}", "trainer.log_every_n_steps is -1: expected 0 or more"),
        ("data: {init_args: {batch_size: null}}", "data.batch_size is null: expected 1 or more"),
        ("data: {init_args: {image_size: 1}}", "data.image_size is 1: expected 2 or more"),
        ('logs: "a\\0b"', "logs is 'a\\x00b': expected a text without a zero character"),
        ('init_from: "a\\0b"', "init_from is 'a\\x00b': expected a text without a zero character"),
    ],
)
def test_number_that_means_nothing_is_refused(change: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_line(capsys, *from_file(change)).startswith(line)
    assert not Path("logs/quickstart/version_0/results.json").exists()


@pytest.mark.parametrize("word", ["inf", "nan", "-Infinity"])
def test_word_for_no_number_is_not_looked_for_as_a_class(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_line(capsys, *QUICK, f"--model.optimizer.lr={word}")
    assert line.endswith(f"lr is {word}: expected a finite number")


@pytest.mark.parametrize("change", ["trainer: 2", "trainer: null", "trainer: []", "checkpoint: -1", "model: 3"])
def test_value_in_the_place_of_a_section_does_not_lose_the_section(
    change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    section, _, value = change.partition(": ")
    line = error_line(capsys, *from_file(change), "--trainer.max_steps", "1")
    assert line == f"{section} is {value}: expected a mapping of its settings, or leave it out"


@pytest.mark.parametrize("option", ["experiment", "logs"])
def test_run_without_a_place_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_line(capsys, *from_file(f"{option}: null")) == f"{option} is null: expected text, or leave it out"


@pytest.mark.parametrize("option", ["ckpt_path", "init_from"])
def test_empty_name_of_a_file_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_line(capsys, *QUICK, f"--{option}", "") == f"--{option} is empty: name a file, or leave it out"


@pytest.mark.parametrize("name", ["../../../esc", "..", ".", "", "a/b", "a\\b", "/tmp/x", "a\0b", "x" * 201])
@pytest.mark.parametrize("option", ["--version", "--experiment"])
def test_name_that_is_a_path_writes_nowhere(option: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(Path().rglob("*"))
    assert error_line(capsys, *QUICK, option, name).startswith(f"{option} is ")
    assert set(Path().rglob("*")) == before


def test_names_of_runs_may_be_any_others() -> None:
    for name in ("version_0", "...", "a b", "ü", "x" * 200, "size_2-seed_0", "..a"):
        check_name(name, "--version")


@pytest.mark.parametrize("part", ["name", "strategies", "weights"])
def test_study_whose_names_are_paths_is_refused_before_it_runs(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    study = {"name": "toy", "configs": ["configs/quickstart.yaml"], "strategies": {"full": "full"}, "baseline": "full"}
    named = {"name": "../x", "strategies": {"full": "full", "a/b": "gradual"}, "weights": {"../x": None}}
    Path("study.yaml").write_text(yaml.safe_dump(study | {part: named[part]}))
    assert "expected the name of one folder" in error_line(capsys, "study", "--config", "study.yaml")
    assert not Path("logs").exists()


ENDLESS = [
    ("a: &a [*a]", "has an alias that contains itself (line 1)"),
    (
        "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)),
        "has 1,234,567,909 values through its aliases",
    ),
    ("[" * 5000, "is nested too deeply"),
    ("trainer: 3", "is no config of a run"),
    ("\0", "is not YAML"),
    ("!!python/object/apply:os.mkdir [ran]", "is not YAML"),
]


@pytest.mark.parametrize(("text", "line"), ENDLESS[:3], ids=["cycle", "aliases of aliases", "nesting"])
def test_config_without_an_end_is_refused_wherever_it_is_read(text: str, line: str) -> None:
    Path("run/checkpoints").mkdir(parents=True)
    for file in ("run/config.yaml", "run/checkpoints/best.ckpt", "part.yaml"):
        Path(file).write_text(text)
    with pytest.raises(UserError, match=re.escape(f"run/config.yaml {line}")):
        load("run")
    with pytest.raises(UserError, match=re.escape(f"part.yaml {line}")):
        plan_of(toy_study(strategies={"scratch": "part.yaml"}))


@pytest.mark.parametrize(("text", "line"), ENDLESS[3:], ids=["number", "zero", "object"])
def test_config_of_a_run_that_is_none_is_refused(text: str, line: str) -> None:
    Path("run/checkpoints").mkdir(parents=True)
    for file in ("run/config.yaml", "run/checkpoints/best.ckpt"):
        Path(file).write_text(text)
    with pytest.raises(UserError, match=f"run/config.yaml {line}"):
        load("run")
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: &a [*a]", "changes.yaml has an alias that contains itself (line 1): expected values that end"),
        ("\nmodel: &m\n  init_args: *m", "changes.yaml has an alias that contains itself (line 2)"),
        (
            "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)),
            "changes.yaml has 1,234,567,909 values through its aliases: expected at most 100,000",
        ),
        ("[" * 5000 + "]" * 5000, "changes.yaml is nested too deeply: expected a config"),
    ],
    ids=["cycle", "cycle in a section", "aliases of aliases", "nesting"],
)
def test_config_without_an_end_is_refused(text: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_line(capsys, *from_file(text)).startswith(line)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("trainer: {max_epochs: 1}\nseed_everything: 1\ntrainer:\n  max_steps: 1", "trainer twice (lines 1 and 3)"),
        ("data: {init_args: {batch_size: 8, batch_size: 16}}", "batch_size twice (lines 1 and 1)"),
        ("overrides:\n  a: 1\n  a: 2", "a twice (lines 2 and 3)"),
    ],
)
def test_key_that_is_given_twice_is_refused_and_not_taken_once(
    text: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = f"{line}: expected it once, with all that is below it"
    assert error_line(capsys, *from_file(text)) == f"changes.yaml has {expected}"
    assert error_line(capsys, "study", "--config", "changes.yaml") == f"changes.yaml has {expected}"
    with pytest.raises(UserError, match=re.escape(expected)):
        plan_of(toy_study(strategies={"scratch": "changes.yaml"}))


def test_alias_that_is_used_twice_is_an_ordinary_value(capsys: pytest.CaptureFixture[str]) -> None:
    text = "data: {init_args: {mean: &half [0.5, 0.5, 0.5], std: *half, batch_size: 0}}"
    assert error_line(capsys, *from_file(text)) == "data.batch_size is 0: expected 1 or more"


def test_config_that_is_no_text_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("binary.yaml").write_bytes(bytes(range(256)))
    line = error_line(capsys, "fit", "--config", "binary.yaml")
    assert line == "binary.yaml is no text in UTF-8: expected a config in YAML"


def test_file_in_the_place_of_the_run_is_kept(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("logs/default").mkdir(parents=True)
    Path("logs/default/taken").write_text("mine")
    line = error_line(capsys, *fit_arguments(image_folder, "--version", "taken"))
    assert line == "logs/default/taken is there already: choose another place, or move it away"
    assert Path("logs/default/taken").read_text() == "mine"


def test_address_that_leads_nowhere_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for address in ("no host", "nowhere.invalid", "a" * 70 + ".b"):
        monkeypatch.setenv("MASTER_ADDR", address)
        with pytest.raises(UserError, match=f"^MASTER_ADDR is {address}: expected the name or number of the host of"):
            check_address()
    two = ("--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp")
    assert error_line(capsys, *QUICK, *two).startswith(f"MASTER_ADDR is {address}: ")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    check_address()


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EMFILE", "ENAMETOOLONG", "ENOTDIR", "EISDIR"])
def test_what_the_system_refuses_is_one_line_that_names_the_file(code: str) -> None:
    number = getattr(errno, code)
    line = message_of(OSError(number, os.strerror(number), "logs/x"))
    assert line is not None
    assert line.startswith("logs/x ")
    assert "\n" not in line


def test_file_that_is_gone_may_be_a_fault_of_the_program_and_keeps_its_traceback() -> None:
    assert message_of(FileNotFoundError(errno.ENOENT, "No such file", str(REPOSITORY / "gone"))) is None
