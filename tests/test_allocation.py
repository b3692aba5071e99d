"""Memory that a step frees is there for the next one."""

import ctypes
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
# Tensors of 128 MiB together, twice of what glibc alone would ever keep.
CODE = """
import resource
import torch
from lightning_transfer.cli.entry import main

try:
    main(["report", "missing"])
except SystemExit:
    pass

def step():
    tensors = [torch.ones(4 << 20) for _ in range(8)]

for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print("pages:", resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES_OF_A_STEP = (128 << 20) // os.sysconf("SC_PAGE_SIZE")


def pages_taken_in_ten_steps(**environment: str) -> int:
    says_how = ("MALLOC_", "GLIBC_TUNABLES")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(says_how)}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=inherited | environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout.rpartition("pages:")[2])


def test_command_keeps_the_memory_of_a_step_for_the_next() -> None:
    assert pages_taken_in_ten_steps() < PAGES_OF_A_STEP


def test_command_leaves_memory_to_the_environment_that_says_how() -> None:
    assert pages_taken_in_ten_steps(MALLOC_TRIM_THRESHOLD_="131072") > 9 * PAGES_OF_A_STEP
