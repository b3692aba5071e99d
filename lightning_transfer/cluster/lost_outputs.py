"""Knows whether what a process prints still goes somewhere, and sends it nowhere where that is gone."""

import os
import select
from collections.abc import Sequence


def lost_outputs(descriptors: Sequence[int], milliseconds: int = 0) -> list[int]:
    """Finds the descriptors whose terminal is gone, or whose pipe nobody reads; none on Windows, which cannot tell.

    Args:
        descriptors: Numbers of open files.
        milliseconds: The time in which one may still be lost.
    """
    if not hasattr(select, "poll"):
        return []
    watch = select.poll()
    for descriptor in descriptors:
        watch.register(descriptor, 0)  # for nothing but errors
    return [descriptor for descriptor, _ in watch.poll(milliseconds)]


def send_nowhere(descriptor: int) -> None:
    """Has a descriptor take words that nobody gets, where each would be an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
