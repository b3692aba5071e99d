"""Implements ``lightning-transfer report``."""

from pathlib import Path

from lightning_transfer.cli.mistakes import Parser
from lightning_transfer.cli.signatures import parser_of
from lightning_transfer.files import check_file, write_text


def write_report(logs: Path, output: Path | None = None) -> Path:
    """Writes one HTML page about a run, or about all runs below a folder. It opens without a network.

    Args:
        logs: Folder of a run, of an experiment or of all experiments.
        output: File to write; report.html in that folder if not given.

    Returns:
        The file of the page.

    Raises:
        UserError: If there is no run, or the page cannot be written.
    """
    page, count = _write(Path(logs), output)
    print(f"report of {count} run{'s' if count > 1 else ''}: {page}")
    return page


def write_page(folder: Path) -> Path:
    """Writes the page about all runs below a folder into it, and prints nothing.

    Raises:
        UserError: If there is no run, or the page cannot be written.
    """
    return _write(folder, None)[0]


def _write(logs: Path, output: Path | None) -> tuple[Path, int]:
    from lightning_transfer.report.run_files import find_runs  # late: --help needs none of it
    from lightning_transfer.report.run_report import report

    runs = find_runs(logs)
    page = Path(output) if output else logs / "report.html"
    check_file(page)
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs in {logs}"
    write_text(page, report(runs, title))
    return page, len(runs)


def parser() -> Parser:
    """Builds the parser of the command."""
    return parser_of("report", write_report)


def main(arguments: list[str]) -> None:
    """Runs the command.

    Args:
        arguments: What follows its name on the command line.
    """
    write_report(**parser().parse_args(arguments).as_dict())
