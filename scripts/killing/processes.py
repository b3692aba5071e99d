"""A command in a process that may be killed at any moment."""

import contextlib
import mmap
import os
import select
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any


class Process:
    """A command that runs in a folder, as a fork of this process, or as an interpreter of its own."""

    def __init__(self, words: list[str], folder: Path, whole: bool = False) -> None:
        self._opened = mmap.mmap(-1, 1)  # shared with the fork
        self._start = time.monotonic()
        sys.stdout.flush()
        self.lived = 0.0
        self._pid = os.fork()
        if self._pid == 0:
            self._run(words, folder, whole)
        with contextlib.suppress(OSError):  # it has done so itself; but a kill may come before that
            os.setpgid(self._pid, self._pid)

    def end(self, seconds: float = 3600.0) -> int:
        """Waits for the end, kills all its processes after some seconds, and returns the status: -9 if that was so."""
        descriptor = os.pidfd_open(self._pid)
        while (left := seconds - self.seconds) > 0 and not select.select([descriptor], [], [], left)[0]:
            pass
        self.lived = self.seconds
        if left <= 0:
            os.killpg(self._pid, signal.SIGKILL)
        os.close(descriptor)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    @property
    def seconds(self) -> float:
        """How long it has lived, without the time in which it waited for a processor: others may use them."""
        waited = int(Path(f"/proc/{self._pid}/schedstat").read_text().split()[1]) / 1e9
        return time.monotonic() - self._start - waited

    @property
    def has_opened(self) -> bool:
        """Whether it has opened a file of its folder."""
        return bool(self._opened[0])

    def _run(self, words: list[str], folder: Path, whole: bool) -> None:
        status = 99
        try:
            os.setpgid(0, 0)
            os.chdir(folder)
            sys.stdout = sys.stderr = Path("output.txt").open("a", buffering=1)  # noqa: SIM115  # until its end
            for stream in (1, 2):
                os.dup2(sys.stdout.fileno(), stream)
            if whole:
                os.execv(sys.executable, [sys.executable, "-m", "lightning_transfer", *words])
            sys.argv = ["lightning-transfer", *words]
            sys.addaudithook(self._note_opening)
            from lightning_transfer.__main__ import main

            main()
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 98
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(status)

    def _note_opening(self, event: str, arguments: Any) -> None:
        if event == "open" and not self._opened[0] and isinstance(arguments[0], str):
            self._opened[0] = Path(arguments[0]).absolute().is_relative_to(Path.cwd())


def last_line(folder: Path) -> str:
    """Reads the last line that a command has printed."""
    return ([*(folder / "output.txt").read_text(errors="replace").splitlines()] or [""])[-1][:300]
