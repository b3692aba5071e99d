"""What other systems lack: the package imports and trains without the names that only Unix or only Linux has."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

# Windows has none of these names. Libraries that need them come first, because they know on which system they are.
WITHOUT = """
import importlib, os, pkgutil, signal, sys
import datasets, torch.distributed.checkpoint.state_dict, torch.utils.tensorboard
import lightning.pytorch.cli
for name in ("resource", "fcntl"):
    sys.modules[name] = None
for name in ("SIGUSR1", "SIGUSR2", "SIGHUP"):
    delattr(signal, name)
for name in ("register_at_fork", "pread", "pwrite"):
    delattr(os, name)

import lightning_transfer
for found in pkgutil.walk_packages(lightning_transfer.__path__, "lightning_transfer."):
    importlib.import_module(found.name)
print("imported")
from lightning_transfer.__main__ import main
sys.argv = ["lightning-transfer", "fit", "--config", "quickstart", "--config", "hardware/cpu", *sys.argv[1:]]
main()
"""


@pytest.mark.slow
def test_every_module_imports_and_a_fit_runs_without_the_names_of_unix() -> None:
    less = ("--data.examples_per_class", "10", "--trainer.max_epochs", "1", "--version", "run")
    command = [sys.executable, "-c", WITHOUT, *less]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("imported")
    assert json.loads(Path("logs/quickstart/run/results.json").read_text())["epochs"] == 1
    assert not Path("logs/quickstart/run/.owner").exists()
