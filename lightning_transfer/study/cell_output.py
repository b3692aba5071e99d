"""Runs a command in this process as if it were one of its own: with its output in a file, and its own arguments."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def output_to(file: Path) -> Iterator[None]:
    """Sends what Python and its libraries print to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with file.open("a", buffering=1) as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            for number, original in enumerate(saved, start=1):
                os.dup2(original, number)
                os.close(original)


@contextlib.contextmanager
def command_line(arguments: list[str]) -> Iterator[None]:
    """Makes the arguments those of the process, because the run records them as the command that repeats it."""
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        yield
    finally:
        sys.argv = before


def last_error_line(log: Path) -> str | None:
    """Finds the last error line of the command in a log; None where there is none."""
    marker = "lightning-transfer: error: "
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.startswith(marker)]
    return lines[-1].removeprefix(marker) if lines else None
