"""Keeps the memory that a training step frees for the next step."""

import ctypes
import os

# These constants are those of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_ON_HEAP = 32 << 20  # bytes; glibc itself would raise it as far
_KEPT = 1 << 30  # bytes
_GLIBC = 128 << 10  # bytes; what glibc begins with


def keep_freed_memory() -> None:
    """Has glibc keep up to 1 GiB of freed memory, and take blocks of up to 32 MiB from it.

    By itself glibc guesses both limits from the blocks that it has seen freed. Where it guesses too low, it returns
    the tensors of each step to the system. The next step then gets them anew, page by page. That takes up to a fifth
    of a small network's time on a CPU, in one run and not in the next. Without glibc, or where the environment sets it
    (``MALLOC_...``, ``GLIBC_TUNABLES``), nothing is changed.
    """
    _set(_LARGEST_ON_HEAP, _KEPT)


def return_freed_memory() -> None:
    """Has glibc return freed memory at once, as a server needs that takes bodies of many sizes for weeks."""
    _set(_GLIBC, _GLIBC)


def _set(largest_on_heap: int, kept: int) -> None:
    is_given = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None and not is_given:
        mallopt(_M_MMAP_THRESHOLD, largest_on_heap)
        mallopt(_M_TRIM_THRESHOLD, kept)
