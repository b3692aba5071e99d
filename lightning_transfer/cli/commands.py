"""Lists all commands, and shows them in the help. It imports nothing slow, so a help or a typo waits for no torch."""

from importlib.metadata import version
from typing import NamedTuple

from lightning_transfer.errors import UserError, did_you_mean


class Command(NamedTuple):
    """Describes one command of ``lightning-transfer``.

    Attributes:
        summary: Line of the help that says what it does.
        module: The module whose ``main`` takes its arguments; None for the commands that LightningCLI runs.
    """

    summary: str
    module: str | None = None


# The keys are the names as typed. A test compares the list with the commands of LightningCLI and those modules.
COMMANDS = {
    "fit": Command("Trains a model, and keeps its best and its last checkpoint."),
    "validate": Command("Evaluates a checkpoint on the validation split."),
    "test": Command("Evaluates a checkpoint on the test split."),
    "predict": Command("Writes the predictions of a checkpoint to a file."),
    "plan": Command("Prints the phases of the unfreezing schedule, and trains nothing."),
    "lr-find": Command("Suggests a learning rate for each phase of the schedule."),
    "prepare": Command("Fills the caches of data and weights, for machines without a network."),
    "transfer": Command("Pretrains, moves to a task by several strategies.", "lightning_transfer.cli.transfer_runs"),
    "study": Command("Compares strategies over sizes and seeds.", "lightning_transfer.cli.study_runs"),
    "ensemble": Command("Evaluates finished runs as one classifier.", "lightning_transfer.cli.ensemble"),
    "soup": Command("Averages the weights of finished runs.", "lightning_transfer.cli.soup"),
    "export": Command("Writes a run for programs without this package.", "lightning_transfer.cli.exporting"),
    "serve": Command("Answers requests over HTTP with a run's predictions.", "lightning_transfer.cli.serving"),
    "explain": Command("Shows what predictions rest on, and checks that.", "lightning_transfer.cli.explaining"),
    "report": Command("Writes one HTML page about a run or many.", "lightning_transfer.cli.report_runs"),
    "init": Command("Writes a project of your own into a new folder.", "lightning_transfer.cli.new_project"),
}

_HELP = """usage: lightning-transfer [-h] [--version] [--print_completion SHELL] COMMAND ...

Transfer learning experiments on PyTorch Lightning. An experiment is a YAML file of your own or a name of those that
come with the package, composed with another for the hardware, and changed by flags:
  lightning-transfer fit --config quickstart --config hardware/cpu --trainer.max_epochs 3

commands, each with a --help of its own:
{commands}

options:
  -h, --help            Shows this help.
  --version             Shows the version.
  --print_completion    Prints a script that completes commands and options: shtab-bash, shtab-zsh or shtab-tcsh.

Every argument of a class: lightning-transfer fit --data.help CIFAR10, --model.help Classifier."""


def front_page(option: str) -> str | None:
    """Answers the options that belong to no command.

    Args:
        option: The first word of the command line.

    Returns:
        The help or the version; None for any other word.
    """
    if option in ("-h", "--help"):
        return _HELP.format(commands="\n".join(f"  {name:<20}  {it.summary}" for name, it in COMMANDS.items()))
    return f"lightning-transfer {version('lightning-transfer')}" if option == "--version" else None


def find_command(words: list[str]) -> Command | None:
    """Finds the command that is called.

    Args:
        words: The command line without the name of the program.

    Returns:
        The command; None where the first word is an option, which LightningCLI reads.

    Raises:
        UserError: If there is no word, or no such command.
    """
    listed = ", ".join(COMMANDS)
    if not words:
        raise UserError(f"no command is given: expected one of {listed}")
    if words[0].startswith("-"):
        return None
    name = words[0].replace("_", "-")
    if name not in COMMANDS:
        meant = did_you_mean(name, COMMANDS)
        raise UserError(f"{words[0]!r} is not one of the commands {listed}{meant and f'; {meant}'}")
    return COMMANDS[name]
