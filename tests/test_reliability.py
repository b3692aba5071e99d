"""The page on faults: each row names a test that there is, and each place that reads a file is listed."""

import ast
import re
from pathlib import Path

from conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "reliability.md").read_text()
PACKAGE = REPOSITORY / "lightning_transfer"
# Calls that turn a file or a text into objects, or a name into code.
READERS = re.compile(
    r"(torch|np|json|yaml|pickle|onnx|torch\.export)\.(load|loads|safe_load|SafeLoader|Unpickler|full_load|load_all)"
    r"|datasets\.load\w+|Tokenizer\.from\w+|models\.get_weight|weights\.get_state_dict|timm\.(create_model|get\w+)"
    r"|(pq|pa\.ipc|pa\.csv|pd)\.(read|open)\w+|Image\.open|tarfile\.open|zipfile\.\w+|csv\.(reader|DictReader)"
    r"|EventAccumulator|text_format\.Parse|importlib\.import_module|pkgutil\.resolve_name|__import__|eval|exec"
    r"|load_file|safe_open|read_json|hf_hub_download|snapshot_download|(\w+\.)?from_pretrained|(np|numpy)\.genfromtxt"
)


def rows(section: str, columns: int) -> list[list[str]]:
    """The cells of the tables of a section."""
    lines = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in section.splitlines() if line.startswith("| ")]
    found = [cells for cells in lines if "`" in cells[-1] or (columns == 3 and cells[0].startswith("`"))]
    assert all(len(cells) == columns for cells in found)
    return found


def test_each_fault_names_a_test_that_there_is() -> None:
    faults = rows(PAGE.split("\n## What is read")[0], 3)
    assert len(faults) >= 60
    known = {
        name
        for file in Path(__file__).parent.glob("test_*.py")
        for name in re.findall(r"def (test_\w+)\(", file.read_text())
    }
    assert [name for *_, name in faults if name.strip("` ") not in known] == []
    assert len({fault for fault, *_ in faults}) == len(faults)


def readers(file: Path) -> set[str]:
    """What a module reads files or names with."""
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    read = {words for call in calls if READERS.fullmatch(words := ast.unparse(call.func))}
    # Or a checkpoint that is read by another name, as by a strategy.
    return read | {
        ast.unparse(c.func)
        for c in calls
        for k in c.keywords
        if k.arg == "weights_only" and "load" in ast.unparse(c.func)
    }


def test_each_place_that_reads_a_file_is_listed_with_why_it_is_safe() -> None:
    section = PAGE.split("## What is read")[1].split("\n## ")[0]
    listed = {module.strip("`"): set(re.findall(r"`([^`]+)`", calls)) for module, calls, _ in rows(section, 3)}
    found = {str(file.relative_to(PACKAGE)): read for file in PACKAGE.rglob("*.py") if (read := readers(file))}
    assert found == listed


def test_every_checkpoint_is_read_as_data_alone() -> None:
    for file in PACKAGE.rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "torch.load":
                assert {k.arg: ast.unparse(k.value) for k in call.keywords}.get("weights_only") == "True", file
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "np.load":
                assert "allow_pickle" not in {k.arg for k in call.keywords}, file
