"""The cache of decoded arrays: one valid entry whatever happens."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
from conftest import write_parquet

from lightning_transfer.data import cache, hub
from lightning_transfer.data.tokenizer import cached_documents, train_tokenizer
from lightning_transfer.errors import UserError


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


@pytest.mark.parametrize(
    "manifest",
    ["[]", "3", "{}", '{"files": []}', '{"files": {}}', '{"files": {"ones.npy": 3}}', "[" * 100_000, "\0"],
)
def test_manifest_of_another_shape_is_a_damaged_entry(manifest: str, shared_cache: Path) -> None:
    cache.load_or_build("shapes", {"n": 1}, build_ones)
    [file] = (shared_cache / "shapes").glob("*/manifest.json")
    before = file.read_text()
    file.write_text(manifest)
    assert cache.load_or_build("shapes", {"n": 1}, build_ones)["ones"].sum() == 1000
    assert file.read_text() == before


def test_damage_is_noticed_in_every_block_of_a_file(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_BLOCK_BYTES", 512)
    cache.load_or_build("blocks", {"n": 1}, build_ones)
    [file] = (shared_cache / "blocks").glob("*/ones.npy")
    content = bytearray(file.read_bytes())
    content[200] ^= 0xFF
    file.write_bytes(content)
    assert (cache.load_or_build("blocks", {"n": 1}, build_ones)["ones"] == 1).all()


def test_what_a_program_writes_into_an_array_does_not_reach_the_entry(capsys: pytest.CaptureFixture[str]) -> None:
    arrays = cache.load_or_build("written", {"n": 1}, build_ones)
    arrays["ones"][:] = 2
    del arrays
    assert (cache.load_or_build("written", {"n": 1}, build_ones)["ones"] == 1).all()
    assert capsys.readouterr().err == ""  # it was not built again either


def test_failed_build_leaves_nothing(shared_cache: Path) -> None:
    def fail(folder: Path) -> None:
        build_ones(folder)
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        cache.load_or_build("failed", {}, fail)
    assert [entry for entry in (shared_cache / "failed").iterdir() if entry.is_dir()] == []


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache on a disk of 2 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a disk of 2 MB cannot be mounted here: it takes root")
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(disk / "cache"))
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


NO_ROOM = r"the cache .*{} cannot be written: it needs .* MiB, and 2.0 MiB are free; make room, or set LIGHTNING_TRANS"


def entries(disk: Path) -> list[Path]:
    return [path for path in disk.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_rows_without_room_are_refused_before_the_first_and_leave_nothing(small_disk: Path) -> None:
    def build(folder: Path) -> None:
        with cache.rows_file(folder / "images.npy", 100, (3, 100, 100), np.uint8):
            pytest.fail("a row was asked for")

    with pytest.raises(UserError, match=NO_ROOM.format("images")):
        cache.load_or_build("images", {}, build)
    assert entries(small_disk) == []


def test_texts_without_room_are_refused_and_leave_nothing(small_disk: Path) -> None:
    tokenizer = train_tokenizer(["a film"], "words", 10)
    with pytest.raises(UserError, match=NO_ROOM.format("texts")):
        cached_documents(tokenizer, [["film " * 2000] * 400], "f", 400)
    assert entries(small_disk) == []


def test_tables_of_the_library_without_room_are_one_line_with_the_way_out(small_disk: Path, tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(4 << 20)
    dataset = datasets.Dataset.from_dict({"image": [content, content[::-1]], "label": [0, 1]})
    folder = write_parquet(tmp_path / "set", train=dataset)
    with pytest.raises(UserError, match=r"cannot (be )?read.*; make room, or set LIGHTNING_TRANSFER_CACHE, or HF_HOME"):
        hub.load_split(str(folder), "train")


def test_room_that_goes_while_an_entry_is_written_is_one_line_too(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")  # as on a file system that cannot reserve

    def build(folder: Path) -> None:
        with cache.rows_file(folder / "images.npy", 60, (3, 100, 100), np.uint8) as write:
            (small_disk / "other").write_bytes(bytes(1 << 20))
            for _ in range(60):
                write(np.ones((3, 100, 100)))

    with pytest.raises(UserError, match="cannot be written: No space left on device; make room"):
        cache.load_or_build("images", {}, build)
    assert entries(small_disk) == [small_disk / "other"]


def test_array_has_as_many_rows_as_were_written(shared_cache: Path) -> None:
    def build(folder: Path) -> None:
        with cache.rows_file(folder / "images.npy", 1000, (2, 3), np.int16) as write:
            for row in range(3):
                write(np.full((2, 3), row))

    images = cache.load_or_build("fewer", {}, build)["images"]
    assert images.shape == (3, 2, 3)
    assert images.dtype == np.int16
    assert images[:, 1, 2].tolist() == [0, 1, 2]
    [file] = (shared_cache / "fewer").glob("*/images.npy")
    assert file.stat().st_size == 128 + images.nbytes
    np.testing.assert_array_equal(np.load(file), images)


@pytest.mark.parametrize("array", [np.arange(6).reshape(2, 3), np.empty((0, 2)), np.float32(7).reshape(())])
def test_saved_array_is_read_as_it_was(array: np.ndarray, tmp_path: Path) -> None:
    cache.save(tmp_path / "a.npy", array)
    found = np.load(tmp_path / "a.npy")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_parts_of_killed_builds_are_removed_by_the_next_build_but_not_those_of_living_ones(shared_cache: Path) -> None:
    folder = shared_cache / "killed"
    for name in ("dead", "alive"):
        for part in (f".{name}.partial", f".{name}.earlier"):
            (folder / part).mkdir(parents=True)
            (folder / part / "images.npy").write_bytes(bytes(100))
        (folder / f"{name}.lock").touch()
    with cache.FileLock(folder / "alive.lock"):
        cache.load_or_build("killed", {}, build_ones)
        assert {path.name for path in folder.glob(".*")} == {".alive.partial", ".alive.earlier"}
    cache.load_or_build("killed", {"n": 2}, build_ones)
    assert [*folder.glob(".*")] == []


def test_cache_that_cannot_be_written_is_one_line_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="file/cache/a cannot be written: Not a directory; make room, or set LIGHTN"):
        cache.load_or_build("a", {}, build_ones)


def test_missing_home_is_one_line_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cache.CACHE_VARIABLE)
    monkeypatch.delenv("HOME", raising=False)

    def unknown(_: int) -> None:
        raise KeyError("no such user")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(UserError, match="there is no home: set LIGHTNING_TRANSFER_CACHE to one"):
        cache.load_or_build("a", {}, build_ones)


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
