"""Knows how much memory is free, and refuses what would take more, before the system ends the process."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from lightning_transfer.errors import UserError

_UNKNOWN = 1 << 62  # where the system does not say
# The limit of a container, by either version of control groups; in the first without a limit an enormous number.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def free_bytes() -> int:
    """Returns how much memory, with what can be swapped, this process may still take."""
    free = [_UNKNOWN]
    with contextlib.suppress(OSError):  # only Linux has this file
        facts = dict(re.findall(r"(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text()))
        free.append(1024 * (int(facts.get("MemAvailable", _UNKNOWN)) + int(facts.get("SwapFree", 0))))
    for limit in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max" is no limit
            free.append(int(Path(limit).read_text()))
    return min(free)


def require_memory(needed: int, what: str, way_out: str) -> None:
    """Refuses what takes more memory than is free.

    Args:
        needed: Bytes that it takes.
        what: What takes it, as the beginning of a sentence, in the plural, as ``data.image_size is 100000: 9 images``.
        way_out: What to do, as the end of the sentence.

    Raises:
        UserError: If so many are not free.
    """
    if needed > (free := free_bytes()):
        raise UserError(f"{what} take {in_gib(needed)} of memory, and {in_gib(free)} are free: {way_out}")


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """Has the system refuse what a block takes beyond the free memory.

    Linux would promise it, and end the process where the memory is first used. It bounds a process by ``RLIMIT_DATA``;
    on other systems nothing is bounded.
    """
    try:
        import resource

        taken = 1024 * int(re.findall(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])
    except (ImportError, OSError, IndexError):
        yield
        return
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    bounds = [taken + free_bytes(), *(bound for bound in (before, most) if bound != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))


def is_refused(error: BaseException) -> bool:
    """Says whether an error of Python, numpy or torch is that memory was refused, or a size no machine can hold."""
    if isinstance(error, OverflowError):  # math has some of its own
        return re.search(r"\bint\b", str(error)) is not None
    is_of_torch = isinstance(error, RuntimeError | TypeError)
    is_refusal = is_of_torch and re.search("allocate memory|[Oo]verflow", str(error)) is not None
    return is_refusal or isinstance(error, MemoryError)


def in_gib(size: float) -> str:
    """Writes a number of bytes in GiB."""
    return f"{size / 2**30:,.1f} GiB"
