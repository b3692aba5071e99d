"""Does whole trainings with this package, fastai, the Trainer of Hugging Face, timm's train script and Lightning.

Each program of ``peer_programs`` runs as it stands, as its library documents it, on the same files and network, with
the same batch size, epochs and hold-out, on one thread, or with ``--accelerator gpu`` on one GPU. Each peer gets an
environment of its own in the folder that ``--environments`` names. All share torch with this one. CIFAR-10, IMDB, SST-2
and MiniLM come from a mirror or the Hub.
"""

import contextlib
import dataclasses
import functools
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import environments, peer_accelerators
from benchmarks.compare import REPOSITORY, count_lines
from benchmarks.measure import RATIO, SMALL_PARENT, Part, Row, Settings, described, told_by_parent
from benchmarks.peer_jobs import JOBS

if TYPE_CHECKING:
    import psutil

PROGRAMS = Path(__file__).parent / "peer_programs"
OURS, FIRST = "lightning-transfer", "transformers"
# What each library prints at the end of an epoch's validation: the hold-out accuracy as a share, or in percent.
EPOCHS = (
    r'"event": "epoch".*"val/accuracy": *(\d[\d.e-]*)',  # lightning-transfer
    r"'eval_accuracy': *'?(\d[\d.e-]*)",  # transformers
    r"^val_accuracy (\d[\d.e-]*)",  # the programs of Lightning
    r"^\d+ +\d+\.\d+ +\d+\.\d+ +(\d\.\d+) +\d\d:\d\d *$",  # fastai's table, whose last column is the time
    r"Test: \[ *(\d+)/\1\].*Acc@1: +\S+ \( *(?P<percent>\d[\d.]*)\)",  # timm, after the last of its batches
)
# The same at the end of each run of a study: the test accuracy.
RUNS = (r'"event": "run".*"test/accuracy": *(\d[\d.e-]*)', r" test_accuracy (\d[\d.e-]*)")


@dataclasses.dataclass(frozen=True)
class Training:
    """What a program took.

    Args:
        marks: Seconds since its start, and the accuracy that it told then, at the end of each epoch or run.
        seconds: Seconds in all. All seconds are of CPU time, or of wall time on a GPU.
        peak: Largest memory of a process in MiB.
        gpu_peak: Largest memory in use on the GPU in MiB; None if nothing tells it.
    """

    marks: list[tuple[float, float]]
    seconds: float
    peak: float
    gpu_peak: int | None = None

    @property
    def mark_seconds(self) -> float:
        """Seconds from one mark to the next: the mean, without the first, which has the start in it."""
        return (self.marks[-1][0] - self.marks[0][0]) / (len(self.marks) - 1)

    def seconds_to(self, bar: float) -> float | None:
        """Seconds from the start of the program to an accuracy; None if it was not reached."""
        return next((end for end, accuracy in self.marks if accuracy >= bar), None)


def programs(job: str, peer: str) -> list[Path]:
    """Finds the files of a job: a program in Python, shell commands, a config."""
    return sorted(PROGRAMS.glob(f"{job}.{peer}.*"))


def peers_of(job: str) -> list[str]:
    """Finds who does a job, beginning with the one that the others are compared with."""
    found = {file.name.split(".")[1] for file in PROGRAMS.glob(f"{job}.*")}
    return sorted(found, key=lambda peer: (peer != FIRST, peer != OURS, peer))


def measure(name: str, settings: Settings) -> list[Row]:
    """Runs the programs of a job in turns."""
    job, folder = JOBS[name], settings.environments.absolute()
    pythons = {peer: environments.python_of(peer, folder) for peer in peers_of(name)}
    present = {peer: python for peer, python in pythons.items() if python is not None}
    count = settings.scaled(job.gpu if settings.accelerator == "gpu" else job.count, job.quick)
    trainings: dict[str, list[Training]] = {peer: [] for peer in present}
    with tempfile.TemporaryDirectory() as place:
        files = Path(place, "files")
        job.write_files(files, count)
        for turn in range(settings.repeats):
            for peer, python in present.items():
                folder_of_run = Path(place, f"{peer}{turn}")
                trainings[peer].append(train(name, peer, python, files, folder_of_run, settings.accelerator))
                shutil.rmtree(folder_of_run)
    first = next(iter(trainings.values()))
    return [
        row_of(name, peer, own, first, count, settings.accelerator)
        | {"versions": environments.versions(peer, present[peer], folder)}
        for peer, own in trainings.items()
    ]


def row_of(
    name: str, peer: str, own: list[Training], first: list[Training], count: int, accelerator: str = "cpu"
) -> Row:
    """Sums a peer's trainings up: medians over the turns."""
    job = JOBS[name]
    done = 1 if job.is_study else count  # from one mark to the next
    second = "s" if accelerator == "gpu" else "CPU s"
    row: Row = {
        "with": peer,
        "lines": sum(count_lines(file.read_text()) for file in programs(name, peer)),
        f"{job.unit}/{second}": done / statistics.median(training.mark_seconds for training in own),
        f"{second} in all": statistics.median(training.seconds for training in own),
    }
    if job.bar is not None:
        to_bar = [seconds for training in own if (seconds := training.seconds_to(job.bar)) is not None]
        row[f"{second} to {job.bar:.0%}"] = statistics.median(to_bar) if len(to_bar) == len(own) else "-"
    accuracies = [statistics.mean(accuracy for _, accuracy in training.marks) for training in own]
    if not job.is_study:
        accuracies = [training.marks[-1][1] for training in own]
    pairs = zip(own, first, strict=True)
    row["accuracy"] = statistics.median(accuracies)
    row["peak memory, MiB"] = max(training.peak for training in own)
    if accelerator == "gpu":
        row["peak GPU memory, MiB"] = max((each.gpu_peak for each in own if each.gpu_peak is not None), default="-")
    row[RATIO] = statistics.median(mine.mark_seconds / theirs.mark_seconds for mine, theirs in pairs)
    return row


def train(name: str, peer: str, python: Path, files: Path, folder: Path, accelerator: str = "cpu") -> Training:
    """Runs a program in a copy of a folder.

    Raises:
        RuntimeError: If the program fails, or tells of fewer than two epochs or runs.
    """
    shutil.copytree(files, folder, symlinks=True)
    for program in programs(name, peer):
        text = peer_accelerators.rewritten(program.read_text(), accelerator)
        (folder / f"{name}{program.suffix}").write_text(text)
    command = [str(python), f"{name}.py"]
    if (folder / f"{name}.sh").exists():
        functions = f'python() {{ "{python}" "$@"; }}; lightning-transfer() {{ python -m lightning_transfer "$@"; }}'
        command = ["bash", "-ec", f"{functions}; . ./{name}.sh"]
    if peer == "timm":
        (folder / environments.TIMM).symlink_to(python.parents[2] / environments.TIMM)
    paths = [str(folder), *([str(REPOSITORY)] if peer == OURS else [])]
    settings = {"PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(paths)}
    settings |= peer_accelerators.variables(accelerator)
    # Nothing is kept from one run to the next.
    settings |= {variable: str(folder / "cache") for variable in ("LIGHTNING_TRANSFER_CACHE", "HF_HOME")}
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **settings}
    patterns = RUNS if JOBS[name].is_study else EPOCHS
    with peer_accelerators.watched_memory(accelerator) as samples:
        training, printed = watched(command, folder, environment, patterns, wall=accelerator == "gpu")
    if training is None or len(training.marks) < 2:
        raise RuntimeError(f"{name} with {peer} failed or told of fewer than two epochs or runs:\n{printed}")
    return dataclasses.replace(training, gpu_peak=max(samples, default=None))


def watched(
    command: list[str],
    folder: Path,
    environment: dict[str, str],
    patterns: Sequence[str] = EPOCHS,
    *,
    wall: bool = False,
) -> tuple[Training | None, str]:
    """Runs a command, and notes its CPU time, or the wall time, at each line that tells an accuracy.

    Returns:
        What it took, None if it failed; and what it printed.
    """
    import psutil  # late: no other suite needs it

    start = time.monotonic()
    process = subprocess.Popen(
        [*SMALL_PARENT, *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    root, printed, marks = psutil.Process(process.pid), [], []
    for line in process.stdout or ():
        printed.append(line)
        if (accuracy := accuracy_in(line, patterns)) is not None:
            family = [root, *root.children(recursive=True)]
            marks.append((time.monotonic() - start if wall else _seconds(family), accuracy))
    if process.wait():
        return None, "".join(printed)
    cpu_seconds, peak = told_by_parent(printed.pop())
    return Training(marks, time.monotonic() - start if wall else cpu_seconds, peak), "".join(printed)


def _seconds(family: "list[psutil.Process]") -> float:
    """Sums the CPU seconds of processes, and of their children that have ended."""
    import psutil

    used = 0.0
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):  # one that has just ended, such as a loader's worker
            used += sum(each.cpu_times()[:4])
    return used


def accuracy_in(line: str, patterns: Sequence[str] = EPOCHS) -> float | None:
    """Finds the accuracy in a line that a library printed, as a share; None if it does not tell one."""
    for pattern in patterns:
        if match := re.search(pattern, line):
            percent = match.groupdict().get("percent")
            return float(match[1]) if percent is None else float(percent) / 100
    return None


PARTS: dict[str, Part] = {
    name: described(functools.partial(measure, name), f"Trains with each peer: {job.what}.")
    for name, job in JOBS.items()
}
