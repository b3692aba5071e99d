"""The cache of decoded arrays: one valid entry whatever happens."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lightning_transfer.data import cache


def build_ones(folder: Path) -> None:
    np.save(folder / "ones.npy", np.ones(1000))


def test_entry_is_built_once_and_mapped_afterwards() -> None:
    calls = []

    def build(folder: Path) -> None:
        calls.append(folder)
        build_ones(folder)

    for _ in range(2):
        arrays = cache.load_or_build("once", {"n": 1}, build)
        assert isinstance(arrays["ones"], np.memmap)
        assert arrays["ones"].sum() == 1000
    assert len(calls) == 1


def test_another_key_is_another_entry() -> None:
    first = cache.load_or_build("keys", {"n": 1}, build_ones)
    second = cache.load_or_build("keys", {"n": 2}, lambda folder: np.save(folder / "twos.npy", np.full(3, 2)))
    assert list(first) == ["ones"]
    assert list(second) == ["twos"]


@pytest.mark.parametrize("damage", ["truncate", "flip a byte", "remove"])
def test_damaged_entry_is_rebuilt_with_one_line_of_notice(
    damage: str, shared_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.load_or_build(damage, {"n": 1}, build_ones)
    [file] = (shared_cache / damage).glob("*/ones.npy")
    content = bytearray(file.read_bytes())
    content[-1] ^= 0xFF
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(content[:-100] if damage == "truncate" else content)
    assert cache.load_or_build(damage, {"n": 1}, build_ones)["ones"].sum() == 1000
    assert len(capsys.readouterr().err.splitlines()) == 1
    cache.load_or_build(damage, {"n": 1}, build_ones)
    assert capsys.readouterr().err == ""


def test_damage_is_noticed_in_every_block_of_a_file(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_BLOCK_BYTES", 512)
    cache.load_or_build("blocks", {"n": 1}, build_ones)
    [file] = (shared_cache / "blocks").glob("*/ones.npy")
    content = bytearray(file.read_bytes())
    content[200] ^= 0xFF
    file.write_bytes(content)
    assert cache.load_or_build("blocks", {"n": 1}, build_ones)["ones"].sum() == 1000


def test_failed_build_leaves_nothing(shared_cache: Path) -> None:
    def fail(folder: Path) -> None:
        build_ones(folder)
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        cache.load_or_build("failed", {}, fail)
    assert [entry for entry in (shared_cache / "failed").iterdir() if entry.is_dir()] == []


def test_writing_to_an_array_does_not_reach_the_disk() -> None:
    cache.load_or_build("private", {}, build_ones)["ones"][:] = 0
    assert cache.load_or_build("private", {}, build_ones)["ones"].sum() == 1000


def test_two_processes_preparing_the_same_images_leave_one_valid_cache(image_folder: Path, tmp_path: Path) -> None:
    program = (
        "from lightning_transfer import CIFAR10; import sys;"
        "data = CIFAR10(path=sys.argv[1]); sys.stdin.readline(); data.prepare_data(); data.setup('fit');"
        "print(int(next(iter(data.val_dataloader())).images.sum()))"
    )
    environment = {"PATH": "/usr/bin:/bin", cache.CACHE_VARIABLE: str(tmp_path / "cache"), "HOME": str(tmp_path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(image_folder)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:  # both have imported everything and wait at the start line
        process.stdin.write("\n")
        process.stdin.flush()
    sums = {process.communicate(timeout=120)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(sums) == 1
    assert len(list((tmp_path / "cache" / "images").glob("*/manifest.json"))) == 1
