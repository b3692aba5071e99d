"""Files that cannot be written: a full disk, few inodes, a reader that is gone. Each is one line."""

import ast
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY

from lightning_transfer.cli.broken_output import words_failures_of_threads
from lightning_transfer.files import parts_of, replacing, write_text

PACKAGE = REPOSITORY / "lightning_transfer"
FIT = ["fit", "--config", "configs/quickstart.yaml", "--trainer.accelerator", "cpu", "--data.examples_per_class", "9"]


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A disk of its own; without the right to mount one, the test is skipped."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here: it takes root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def command(*words: str, **how: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "lightning_transfer", *words]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(line, env=environment, text=True, capture_output="stdout" not in how, check=False, **how)


@pytest.mark.slow
@pytest.mark.parametrize("options", ["size=64k", "size=4m,nr_inodes=5"])
def test_run_on_a_disk_that_becomes_full_ends_with_one_line(options: str, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", options) as disk:
        done = command(*FIT, "--trainer.max_epochs", "1", "--logs", str(disk / "logs"))
    lines = done.stderr.splitlines()
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    [line] = [line for line in lines if line.startswith("lightning-transfer: error: ")]
    assert "No space left on device" in line or "the disk is full" in line


@pytest.mark.slow
def test_reader_that_is_gone_ends_a_command_without_a_word() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = command("--help", stdout=write_end, stderr=subprocess.PIPE)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.slow
def test_output_on_a_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = command("--help", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("lightning-transfer: error: ")
    assert "cannot be written" in line


def test_what_the_system_refuses_a_thread_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with words_failures_of_threads():
        thread = threading.Thread(target=Path("/dev/full").write_text, args=["x"])
        thread.start()
        thread.join()
    assert capsys.readouterr().err == (
        "lightning-transfer: error: a file cannot be written, as the disk is full: make room, or choose another place,"
        " as by --logs\n"
    )


def test_link_at_the_place_of_a_part_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    for name in ("last.ckpt", "folder"):
        for part in parts_of(tmp_path / name):
            part.symlink_to(tmp_path / "precious")
    write_text(tmp_path / "last.ckpt", "new")
    with replacing(tmp_path / "folder") as partial:
        partial.mkdir()
    assert (tmp_path / "precious").read_text() == "mine"
    assert (tmp_path / "last.ckpt").read_text() == "new"
    assert not (tmp_path / "last.ckpt").is_symlink()


# Calls that write a file. What writes one elsewhere than at the partial path of `replacing` is listed below.
WRITERS = {
    *("savefig", "to_csv", "to_json", "to_parquet", "savetxt", "savez", "tofile", "save_file", "copyfile", "copy2"),
    *("copytree", "save", "save_pretrained", "memmap", "rename"),
}
ELSEWHERE = {
    ("cli/explaining.py", "_write_pictures"): "writes into a folder that appears as a whole",
    ("run/event_files.py", "save"): "asks the logger of Lightning, which then finds the file written",
    ("run/exports/programs.py", "_write_onnx"): "writes into a folder that appears as a whole",
    ("run/exports/programs.py", "_write_weights"): "writes into a folder that appears as a whole",
    ("run/exports/programs.py", "write_program"): "writes into a folder that appears as a whole",
    ("data/cache.py", "save"): "writes into a folder that appears as a whole",
    ("data/cache.py", "rows_file"): "writes into a folder that appears as a whole",
    ("data/reading/fingerprints.py", "build"): "writes into a folder that appears as a whole",
    ("report/drawing.py", "png"): "writes into memory",
    ("report/run_section.py", "_picture"): "writes into memory",
    ("run/plain_types.py", "_is_readable"): "writes into memory",
    ("run/guarded_strategy.py", "save_plain"): "asks the plugin that writes checkpoints",
    ("study/cell_output.py", "output_to"): "adds lines to the log of a run",
    ("run/verbosity.py", "_choose"): "opens the device that keeps nothing",
}


def writes(call: ast.Call) -> bool:
    """Whether a call writes a file, or opens one to write."""
    words = ast.unparse(call.func)
    name = words.rpartition(".")[2]
    if name == "open":
        modes = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
        return any(isinstance(mode, str) and set("wax+") & set(mode) and len(mode) < 4 for mode in modes)
    if name in ("write_text", "write_bytes"):  # the functions of these names write whole files
        return words != name
    return (name in WRITERS and words not in ("cache.save", "self.save")) or words in ("json.dump", "yaml.dump")


def calls_by_function(tree: ast.Module) -> Iterator[tuple[str, ast.Call, bool]]:
    """Each call with the innermost function around it, and whether it is in a block of `replacing`."""

    def visit(node: ast.AST, function: str, is_whole: bool) -> Iterator[tuple[str, ast.Call, bool]]:
        if isinstance(node, ast.FunctionDef):
            function = node.name
        if isinstance(node, ast.With):
            is_whole = is_whole or any("replacing(" in ast.unparse(item) for item in node.items)
        if isinstance(node, ast.Call):
            yield function, node, is_whole
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function, is_whole)

    return visit(tree, "", False)


def test_every_file_of_the_package_is_written_whole_or_its_place_is_listed() -> None:
    found = {
        (str(file.relative_to(PACKAGE)), function)
        for file in PACKAGE.rglob("*.py")
        for function, call, is_whole in calls_by_function(ast.parse(file.read_text()))
        if writes(call) and not is_whole
    }
    assert found == ELSEWHERE.keys()
