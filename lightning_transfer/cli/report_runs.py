"""The command ``lightning-transfer report``."""

import argparse
from pathlib import Path

from lightning_transfer.files import check_file, write_text


def main(arguments: list[str]) -> None:
    """Writes the report of a folder of runs.

    Args:
        arguments: What follows ``report`` on the command line.

    Raises:
        UserError: If there is no run, or the page cannot be written.
    """
    parser = argparse.ArgumentParser(
        prog="lightning-transfer report",
        description="Writes one HTML page about a run, or about all runs below a folder. It opens without a network.",
        allow_abbrev=False,
    )
    parser.add_argument("logs", type=Path, help="folder of a run, of an experiment or of all experiments")
    parser.add_argument("--output", type=Path, help="file to write; LOGS/report.html if not given")
    given = parser.parse_args(arguments)

    from lightning_transfer.report.run_files import find_runs
    from lightning_transfer.report.run_report import report

    runs = find_runs(given.logs)
    output = given.output or given.logs / "report.html"
    check_file(output)
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs in {given.logs}"
    write_text(output, report(runs, title))
    print(f"report of {len(runs)} run{'s' if len(runs) > 1 else ''}: {output}")
