"""Gives a run's folder to one living process alone."""

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from lightning_transfer.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

OWNER = ".owner"

_held: set[int] = set()  # descriptors of the locked files


def _let_go() -> None:
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    # A forked child, such as a worker that loads data, would keep the lock of a process that was killed.
    os.register_at_fork(after_in_child=_let_go)


def new_version(experiment: Path) -> str:
    """Makes the folder of the next run of an experiment. Two processes that ask at once get two folders.

    Args:
        experiment: The folder of the experiment's runs, which exists.

    Returns:
        The folder's name: ``version_0``, ``version_1`` and so on.
    """
    names = (re.fullmatch(r"version_(\d+)", entry.name) for entry in experiment.iterdir())
    number = 1 + max((int(name[1]) for name in names if name), default=-1)
    while True:
        try:
            (experiment / f"version_{number}").mkdir()
        except FileExistsError:
            number += 1
        else:
            return f"version_{number}"


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Makes a run's folder, which belongs to this process alone as long as the context lasts.

    The file ``.owner`` in it names the process, and is locked as long as the process lives. The operating system
    unlocks it when the process ends in whatever way. Hosts that share the folder respect each other's locks where the
    file system has locks for all of them, as NFS has. On a file system without locks, only the processes of one host
    are kept apart. On Windows no process is kept out. A folder in which nothing was written is deleted at the end.

    Raises:
        UserError: If the folder belongs to another living process.
    """
    descriptor = _lock(folder)
    _held.add(descriptor)
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):  # Windows deletes no file that is open
            (folder / OWNER).unlink(missing_ok=True)
        _held.remove(descriptor)
        os.close(descriptor)
        with contextlib.suppress(OSError):
            folder.rmdir()


def _lock(folder: Path) -> int:
    """Locks the owner's file, and returns its descriptor."""
    file = folder / OWNER
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the previous owner has just deleted the folder
            continue
        host, _, process = os.read(descriptor, 1000).decode(errors="replace").partition(" ")
        is_free = _is_free(descriptor, host, process)
        if is_free and _is_still(file, descriptor):
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, f"{socket.gethostname()} {os.getpid()}".encode())
            return descriptor
        os.close(descriptor)
        if not is_free:
            raise UserError(
                f"{folder} belongs to process {process or 'unknown'} on {host or 'an unknown host'}, which is still"
                " running: wait for its end, or give another --version"
            )


def _is_free(descriptor: int, host: str, process: str) -> bool:
    """Locks the open file, or says that another living process owns it, by its lock or else by its name."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # this file system has no locks
        return not (host == socket.gethostname() and _is_alive(process))
    return True


def _is_still(file: Path, descriptor: int) -> bool:
    """Says whether the open file still has that name: the previous owner may have deleted it in between."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    return False


def _is_alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # another user's process
        return True
    return True
