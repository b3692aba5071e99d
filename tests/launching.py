"""Runs in processes of their own, which leave no process behind."""

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
FIT = [sys.executable, "-m", "lightning_transfer"]
_MARK = "TEST_RUN"


def environment(**more: str) -> dict[str, str]:
    """The environment of a run: quick on few cores, with the helpers of the tests importable, and a mark of its own."""
    paths = [str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")]
    shared = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "ignore"}
    return {**os.environ, **shared, "GLOO_SOCKET_IFNAME": "lo", _MARK: uuid.uuid4().hex, **more}


def run_ranks(script: str, folder: Path) -> list[dict[str, Any]]:
    """Runs a script of the tests in two processes of one group, and returns what each saved as rank0.pt or rank1.pt."""
    start_ranks(script, folder)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


def start_ranks(script: str, folder: Path, seconds: float = 300) -> None:
    """Runs a script of the tests in two processes of one group, which share what one process has imported."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = environment(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", NODE_RANK="0")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lightning_transfer.cli.experiment"])  # as for the workers of a study
    ranks = [{**shared, "LOCAL_RANK": str(rank)} for rank in range(2)]
    processes = [context.Process(target=_run_as_rank, args=(script, folder, variables)) for variables in ranks]
    for process in processes:
        process.start()
    try:
        deadline = time.monotonic() + seconds
        for process in processes:
            process.join(deadline - time.monotonic())
    finally:
        for process in processes:
            process.kill()
            process.join()
    outputs = [(folder / f"output{rank}.txt").read_text() for rank in range(2)]
    assert [process.exitcode for process in processes] == [0, 0], "\n".join(outputs)


def _run_as_rank(script: str, folder: Path, variables: dict[str, str]) -> None:
    """Runs a script as a new interpreter would, in a process that has imported the package."""
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    with Path(f"output{variables['LOCAL_RANK']}.txt").open("w") as output:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(output.fileno(), stream.fileno())
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sys.argv = [script, str(folder)]
    runpy.run_path(str(HERE / script), run_name="__main__")


def assert_trained_as_one(ranks: Sequence[dict[str, Any]], alone: dict[str, torch.Tensor], scenario: str) -> None:
    """Asserts that two processes ended with equal tensors, and with those of one process to 1e-6."""
    first, second = ranks
    assert alone.keys() == first[scenario].keys()
    for name, value in alone.items():
        assert torch.equal(first[scenario][name], second[scenario][name]), name
        torch.testing.assert_close(first[scenario][name], value, rtol=0, atol=1e-6, msg=name)


def run(command: list[str], folder: Path, seconds: float = 480, **variables: str) -> tuple[int, str]:
    """Runs a command to its end and returns its status and its output.

    Raises:
        AssertionError: Where it takes longer, or leaves a process behind for more than a minute.
    """
    marked = environment(**variables)
    with (folder / "output.txt").open("w+") as output:
        process = subprocess.Popen(command, cwd=folder, env=marked, stdout=output, stderr=output)
        try:
            status = process.wait(seconds)
            deadline = time.monotonic() + 60
            while (left := _living(marked[_MARK])) and time.monotonic() < deadline:
                time.sleep(0.2)
            assert not left, f"processes {left} are left"
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s:\n{(folder / 'output.txt').read_text()}") from None
        finally:
            for pid in _living(marked[_MARK]):
                os.kill(pid, signal.SIGKILL)
            process.wait()
    return status, (folder / "output.txt").read_text()


def _living(mark: str) -> list[int]:
    """The processes that have inherited the mark, but for those that are dead and only not reaped."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{_MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:  # gone, or another user's
            continue
    return found
