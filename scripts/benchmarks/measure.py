"""Functions that measure CPU time, in interleaved repeats, and compare it within one run."""

import contextlib
import io
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch

from lightning_transfer.networks.processor import has_bfloat16

# The precisions that this processor has. A row in another one would in truth be computed in float32.
PRECISIONS = ("32", "bf16") if has_bfloat16() else ("32",)
RATIO = "time, of the first's"  # the column of what holds on any machine; lower is better
# A process begins with the peak memory of the one that started it. So a small one starts a command: its words follow
# these. In a line of its own it then tells the CPU seconds and the peak memory, and ends with the command's status.
_START_AND_TELL = """import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
sys.exit(status)
"""
SMALL_PARENT = [sys.executable, "-I", "-S", "-c", _START_AND_TELL]
_MAXRSS_PER_MIB = 2**20 if sys.platform == "darwin" else 2**10
Row = dict[str, str | float]  # a line of a table: column -> value
Part = Callable[["Settings"], list[Row]]


@dataclass(frozen=True)
class Settings:
    """Settings that say how much to measure.

    Args:
        repeats: Number of runs of each candidate.
        quick: Whether to measure tiny sizes, only to see that everything runs.
        arguments: More arguments, for parts that run the command line.
        environments: Folder of the environments of peers.
        accelerator: Where peers train: ``cpu``, on one thread, or ``gpu``.
    """

    repeats: int = 5
    quick: bool = False
    arguments: tuple[str, ...] = ()
    environments: Path = Path("logs/environments")
    accelerator: str = "cpu"

    def scaled(self, full: int, quick: int) -> int:
        """Chooses the full or the quick size."""
        return quick if self.quick else full


def cpu_seconds(step: Callable[[], object]) -> float:
    """Runs a step, and gives the CPU time of all threads of this process."""
    start = time.process_time()
    step()
    return time.process_time() - start


class Clock(L.Callback):
    """Measures the CPU time between two optimizer steps.

    Args:
        first: The step after which to start.
        last: The step after which to stop.
    """

    seconds = math.nan  # of the latest clock; a class attribute, because the command line makes the clock itself

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Starts the clock after the first step, and stops it after the last."""
        if trainer.global_step == self.first:
            self.start = time.process_time()
        elif trainer.global_step == self.last:
            Clock.seconds = time.process_time() - self.start


def told_by_parent(printed: str) -> tuple[float, float]:
    """Reads what SMALL_PARENT tells at the end of what was printed: CPU seconds, and the peak memory in MiB."""
    seconds, peak = printed.split()[-2:]
    return float(seconds), int(peak) / _MAXRSS_PER_MIB


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Hides the output of a run, unless it fails."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield
    except SystemExit:
        print(said.getvalue(), file=sys.stderr)
        raise


def compare(
    candidates: Mapping[str, Callable[[], float]], settings: Settings, count: int | Mapping[str, int], unit: str
) -> list[Row]:
    """Runs candidates in turns, and compares them with the first.

    Args:
        candidates: Name -> a function that runs the candidate once and gives its CPU seconds.
        settings: Settings with the number of turns.
        count: Number of items that each works on, or such a number for each candidate.
        unit: Name of the items.

    Returns:
        For each candidate items per second (best and median), and the median ratio of its time to the first's.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(settings.repeats):
        for name, run in candidates.items():
            seconds[name].append(run() / (count if isinstance(count, int) else count[name]))
    first = next(iter(seconds.values()))
    return [
        {
            "candidate": name,
            f"{unit}/s, best": 1 / min(values),
            f"{unit}/s, median": 1 / statistics.median(values),
            RATIO: statistics.median(own / other for own, other in zip(values, first, strict=True)),
        }
        for name, values in seconds.items()
    ]


def described(part: Part, what: str) -> Part:
    """Gives a part its description, which is the docstring of others."""
    part.__doc__ = what
    return part


def print_table(rows: list[Row], worse: Collection[int] = ()) -> None:
    """Prints rows of the same columns, with numbers to three significant digits.

    Args:
        rows: At least one row.
        worse: Places of the rows that are printed in red on a terminal.
    """
    cells = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    for number, line in enumerate(cells, start=-1):  # the first line has the names of the columns
        padded = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        text = "  ".join([line[0].ljust(widths[0]), *padded[1:]])
        print(f"\033[31m{text}\033[0m" if number in worse and sys.stdout.isatty() else text, flush=True)


def _text(value: str | float) -> str:
    if isinstance(value, str | int):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine() -> dict[str, str | int | float]:
    """Describes the machine on which a measurement is made."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    return {
        "processor": names[0].partition(":")[2].strip() if names else platform.processor(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": L.__version__,
    }
