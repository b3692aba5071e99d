"""Implements ``lightning-transfer init``."""

from pathlib import Path

from lightning_transfer.cli.mistakes import Parser
from lightning_transfer.cli.signatures import parser_of
from lightning_transfer.errors import UserError
from lightning_transfer.files import check_folder, write_text

_EXAMPLE = Path(__file__).parent / "project"


def write_project(folder: Path) -> list[Path]:
    """Writes a project of your own: a config, a network, a data module, and a README with the commands.

    Args:
        folder: Folder of the project, which is new or empty.

    Returns:
        The files.

    Raises:
        UserError: If the folder is not empty, or cannot be written in.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: expected a new or an empty folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: expected a new or an empty folder")
    check_folder(folder, "init FOLDER")
    files = [folder / file.name for file in sorted(_EXAMPLE.iterdir()) if file.is_file()]
    for file in files:
        write_text(file, (_EXAMPLE / file.name).read_text(encoding="utf-8"))
    print(f"{folder} has {', '.join(file.name for file in files)}: its README.md says how to go on")
    return files


def parser() -> Parser:
    """Builds the parser of the command."""
    return parser_of("init", write_project)


def main(arguments: list[str]) -> None:
    """Runs the command.

    Args:
        arguments: What follows its name on the command line.
    """
    write_project(**parser().parse_args(arguments).as_dict())
