"""A run's folder has one living owner, whoever else asks for it."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import fit_arguments
from launching import FIT, environment
from test_cli import error_line

from lightning_transfer.cli.entry import main
from lightning_transfer.errors import UserError
from lightning_transfer.run.ownership import OWNER, new_version, owned

# Owns a folder, with a worker that outlives it, until it is killed.
HOLDER = """
import os, sys, time
from pathlib import Path
from lightning_transfer.run.ownership import owned
with owned(Path(sys.argv[1])):
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(folder)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(), start_new_session=True)
    assert holder.stdout is not None
    assert int(holder.stdout.readline()) == holder.pid
    return holder


def test_folder_of_a_living_run_is_refused_and_that_of_a_dead_one_taken_over(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path("logs/default/run")
    holder = hold(run)
    try:
        for more in ([], ["--ckpt_path", "last"]):
            line = error_line(capsys, *fit_arguments(image_folder, "--version", "run", *more))
            assert line == (
                f"{run} belongs to process {holder.pid} on {socket.gethostname()}, which is still running:"
                " wait for its end, or give another --version"
            )
        assert [file.name for file in run.iterdir()] == [OWNER]
        holder.kill()  # its worker lives on
        holder.wait()
        main(fit_arguments(image_folder, "--version", "run", "--dashboards", "null"))
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.communicate()
    assert (run / "results.json").exists()
    assert not (run / OWNER).exists()


def test_runs_started_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "version_7").mkdir()
    (tmp_path / "version_old").mkdir()
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: new_version(tmp_path), range(40)))
    assert sorted(names) == sorted(f"version_{number}" for number in range(8, 48))


@pytest.mark.slow
def test_fits_started_at_once_have_records_of_their_own(image_folder: Path) -> None:
    command = [*FIT, *fit_arguments(image_folder, "--dashboards", "null")]
    processes = [subprocess.Popen(command, env=environment()) for _ in range(2)]
    assert [process.wait(400) for process in processes] == [0, 0]
    runs = {file.parent.name for file in Path("logs/default").glob("*/results.json")}
    assert runs == {"version_0", "version_1"}


def test_start_from_another_run_under_the_name_of_a_finished_one_is_refused(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("logs/default/b").mkdir(parents=True)
    Path("logs/default/b/results.json").touch()
    checkpoint = "logs/default/a/checkpoints/last.ckpt"
    line = error_line(capsys, *fit_arguments(image_folder, "--version", "b", "--ckpt_path", checkpoint))
    assert line.startswith("logs/default/b holds a run already: ")
    assert not (Path("logs/default/b") / OWNER).exists()


def test_folder_in_which_nothing_was_written_is_gone(tmp_path: Path) -> None:
    with owned(tmp_path / "run"):
        assert (tmp_path / "run" / OWNER).read_text() == f"{socket.gethostname()} {os.getpid()}"
    assert not (tmp_path / "run").exists()


def test_owner_that_deletes_its_file_meanwhile_leaves_one_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_flock, calls = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if not calls:
            (tmp_path / "run" / OWNER).unlink()  # as the owner before does at its end
        calls.append(descriptor)
        real_flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with owned(tmp_path / "run"):
        assert len(calls) == 2
        with pytest.raises(UserError, match="is still running"), owned(tmp_path / "run"):
            pass


def test_without_locks_of_the_file_system_a_living_process_of_this_host_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with owned(tmp_path), pytest.raises(UserError, match=f"process {os.getpid()} "), owned(tmp_path):
        pass
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for owner in (f"{socket.gethostname()} {dead.pid}", "elsewhere 1", "nonsense", ""):
        (tmp_path / OWNER).write_text(owner)
        with owned(tmp_path):
            assert (tmp_path / OWNER).read_text().endswith(str(os.getpid()))
