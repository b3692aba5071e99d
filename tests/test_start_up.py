"""What is answered before torch is loaded, the list of commands, and the script that completes them."""

import importlib
import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import REPOSITORY

from lightning_transfer.cli.commands import COMMANDS
from lightning_transfer.cli.entry import main
from lightning_transfer.cli.experiment import CommandLine

# Says on standard error what the process has cost.
METERED = """
import resource, sys
from lightning_transfer.__main__ import main
try:
    main()
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    print("cost", used.ru_utime + used.ru_stime, "torch" in sys.modules, "lightning" in sys.modules, file=sys.stderr)
"""


def metered(*arguments: str) -> tuple[int, str, float]:
    """Runs a command: its exit status, all that it printed, and its seconds of CPU."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", METERED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    *errors, cost = done.stderr.splitlines()
    _, seconds, *loaded = cost.split()
    assert loaded == ["False", "False"]
    return done.returncode, done.stdout + "\n".join(errors), float(seconds)


@pytest.mark.parametrize(
    ("arguments", "status", "answer"),
    [
        (["--version"], 0, f"lightning-transfer {version('lightning-transfer')}"),
        (["--help"], 0, "lr-find               Suggests a learning rate"),
        (["-h"], 0, "--print_completion"),
        (["report", "--help"], 0, "Writes one HTML page about a run"),
        (["repot", "logs"], 2, "lightning-transfer: error: 'repot' is not one of the commands fit, validate, test, "),
        ([], 2, "lightning-transfer: error: no command is given: expected one of fit, validate, test, "),
    ],
)
def test_help_version_and_typos_are_answered_within_a_second_without_torch(
    arguments: list[str], status: int, answer: str
) -> None:
    returned, output, seconds = metered(*arguments)
    assert returned == status
    assert answer in output
    assert seconds <= 1.0


def test_listed_commands_are_those_there_are() -> None:
    run_by_lightning = {name.replace("_", "-") for name in CommandLine.subcommands()}
    assert {name for name, command in COMMANDS.items() if command.module is None} == run_by_lightning
    for name, command in COMMANDS.items():
        assert command.summary.endswith(".")
        if command.module is not None:
            assert importlib.import_module(command.module).parser().prog == f"lightning-transfer {name}"


@pytest.mark.skipif(find_spec("shtab") is None, reason="shtab is not installed")
def test_completion_knows_all_commands_and_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--print_completion", "shtab-bash"])
    assert stop.value.code == 0
    Path("completion.bash").write_text(capsys.readouterr().out)
    for words, completed in {
        "": [name.replace("-", "_") for name in COMMANDS],
        "stu": ["study"],
        "fit --conf": ["--config"],
        "fit --data.batch": ["--data.batch_size"],
        "fit --model.optimizer.mom": ["--model.optimizer.momentum"],
        "test --data IM": ["IMDB"],
        "transfer --strat": ["--strategies"],
        "ensemble --split v": ["validation"],
    }.items():
        assert completions(words) == completed


def completions(words: str) -> list[str]:
    """What bash makes of words after the name of the program, the last of them not finished."""
    typed = f"lightning-transfer {words}" if words else "lightning-transfer ''"
    program = (
        f"source completion.bash; COMP_WORDS=({typed}); "
        'COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _shtab_lightning_transfer; printf "%s\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_unknown_shell_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--print_completion", "shtab-sh"])
    assert stop.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("lightning-transfer: error: ")
    assert "shtab-bash" in line
