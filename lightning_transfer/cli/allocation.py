"""How the process deals with memory that a training step frees: it keeps it for the next one."""

import ctypes
import os

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_ON_HEAP = 32 << 20  # bytes; as far as glibc itself would raise it
_KEPT = 1 << 30  # bytes


def keep_freed_memory() -> None:
    """Has glibc keep up to 1 GiB of freed memory, and have blocks of up to 32 MiB there.

    By itself it guesses both limits from the blocks that it has seen freed. Where it guesses too low, it gives the
    tensors of a step back to the system after each step, and the next one gets them anew, page by page: up to a
    fifth of a small network's time on a CPU, in one run and not in the next. Without glibc, or where the environment
    says how it shall be (``MALLOC_...``, ``GLIBC_TUNABLES``), nothing is changed.
    """
    is_given = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not is_given:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_ON_HEAP)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
