"""Checkpoints are whole or not there."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_transfer.errors import UserError
from lightning_transfer.run.checkpoint_io import DurableCheckpointIO

STATE = {"state_dict": {"weight": torch.arange(200_000.0)}, "epoch": 3}
# Saves for ever: says when it has begun, and dies whenever it is killed.
WRITER = """
import sys, torch
from lightning_transfer.run.checkpoint_io import DurableCheckpointIO
io = DurableCheckpointIO()
for epoch in range(1_000_000):
    io.save_checkpoint({"weight": torch.full((1_000_000,), float(epoch)), "epoch": epoch}, sys.argv[1])
    print(epoch, flush=True)
"""


def test_saved_checkpoint_is_loaded_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "below" / "last.ckpt"
    for _ in range(2):
        DurableCheckpointIO().save_checkpoint(STATE, path)
    loaded = DurableCheckpointIO().load_checkpoint(path, weights_only=True)
    torch.testing.assert_close(loaded["state_dict"], STATE["state_dict"])
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write checkpoint .*: (Not a directory|File exists)"):
        DurableCheckpointIO().save_checkpoint(STATE, tmp_path / "file" / "last.ckpt")


def test_file_and_folder_are_synced_before_and_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        happened.append(f"sync {Path(f'/proc/self/fd/{descriptor}').resolve().name}")
        real_fsync(descriptor)

    def replace(path: Path, target: Path) -> Path:
        happened.append(f"rename to {target.name}")
        return real_replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    DurableCheckpointIO().save_checkpoint(STATE, tmp_path / "last.ckpt")
    assert happened == ["sync .last.ckpt.partial", "rename to last.ckpt", f"sync {tmp_path.name}"]


@pytest.mark.slow
def test_writer_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    environment = {**os.environ, "TMPDIR": "/dev/shm"}  # another file system, as on many clusters
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    assert writer.stdout is not None
    try:
        for _ in range(20):
            epoch = int(writer.stdout.readline())
            os.kill(writer.pid, signal.SIGSTOP)  # as good as killed: what is on the disk now stays
            loaded = torch.load(path, weights_only=True)
            assert loaded["epoch"] >= epoch
            assert (loaded["weight"] == loaded["epoch"]).all()
            os.kill(writer.pid, signal.SIGCONT)
    finally:
        writer.kill()
        writer.communicate()
    torch.load(path, weights_only=True)


def test_full_disk_is_one_line_and_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    DurableCheckpointIO().save_checkpoint(STATE, path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write checkpoint .*last.ckpt: File too large; an earlier one"):
            DurableCheckpointIO().save_checkpoint(STATE, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert torch.load(path, weights_only=True)["epoch"] == 3
    assert [file.name for file in tmp_path.glob(".*")] == []
