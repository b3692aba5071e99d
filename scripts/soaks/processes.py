"""Samples of what the processes of a command hold, from /proc."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Held(NamedTuple):
    """What a process holds at a moment.

    Attributes:
        memory: MiB of its own, and its part of what it shares; without mapped files.
        files: Open files, sockets and pipes.
    """

    process: int
    memory: float
    files: int
    threads: int


class Sample(NamedTuple):
    """What the processes of a command held at a moment, and the folder that they write to.

    Attributes:
        seconds: Since the start.
        processes: The command itself first, and then all that descend from it.
        folder: MiB on the disk.
    """

    seconds: float
    processes: list[Held]
    folder: float


def take_sample(root: int, folder: Path, seconds: float) -> Sample:
    """Takes a sample of a process, of its descendants, and of a folder."""
    held = []
    for process in _family(root):
        with contextlib.suppress(OSError):  # it has just ended
            held.append(_held_by(process))
    return Sample(round(seconds, 1), held, round(_size(folder), 2))


def read_samples(folder: Path) -> list[Sample]:
    """Reads the samples of a soak; a line that was cut is left out."""
    found = []
    for line in (folder / "samples.jsonl").read_text().splitlines():
        with contextlib.suppress(ValueError):
            seconds, processes, size = json.loads(line).values()
            found.append(Sample(seconds, [Held(*one) for one in processes], size))
    return [one for one in found if one.processes]


def left_of(session: int, seconds: float = 10) -> list[int]:
    """Lists the processes of a session that live on after some seconds."""
    end = time.monotonic() + seconds
    while (left := [process for process, _, other in _all_processes() if other == session]) and time.monotonic() < end:
        time.sleep(0.2)
    return left


def _all_processes() -> Iterator[tuple[int, int, int]]:
    """Gives id, parent and session of each process."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                facts = (entry / "stat").read_text().rpartition(")")[2].split()
                yield int(entry.name), int(facts[1]), int(facts[3])


def _family(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for process, parent, _ in _all_processes():
        children.setdefault(parent, []).append(process)
    found = [root]
    for process in found:  # grows meanwhile
        found += sorted(children.get(process, []))
    return found


def _held_by(process: int) -> Held:
    place = Path("/proc", str(process))
    sizes = dict(line.split(":") for line in (place / "smaps_rollup").read_text().splitlines()[1:])
    kib = sum(int(sizes[name].split()[0]) for name in ("Pss_Anon", "Pss_Shmem"))
    files, threads = (len([*(place / name).iterdir()]) for name in ("fd", "task"))
    return Held(process, round(kib / 1024, 2), files, threads)


def _size(folder: Path) -> float:
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # it has just been removed
                size += Path(place, name).lstat().st_size
    return size / 2**20
