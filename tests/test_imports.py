"""Who may import whom: networks and data stand alone, and nothing reaches up."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lightning_transfer"
# Each folder, and what of this package its modules may import besides their own folder, the errors and the files.
MAY_IMPORT = {
    "networks": (),
    "data": (),
    "transfer": ("networks.layer_groups",),
    "cluster": ("networks.layer_groups", "transfer.plateau"),  # plateau: whether a validation follows
    "dashboards": ("networks.layer_groups", "data.batches", "results", "page"),
    "study": ("transfer", "page", "messages", "cli"),  # cli: a cell is a command line
    "modules": ("transfer.param_groups", "networks", "data.batches"),
}


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    ours = {name.removeprefix("lightning_transfer.") for name in names if name.startswith("lightning_transfer.")}
    # `from a.b import name` counts as a.b.name too: keep the longest that is a module or a folder.
    return {name for name in ours if (PACKAGE / f"{name.replace('.', '/')}.py").exists()}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_folder_imports_only_what_it_may(folder: str) -> None:
    files = list((PACKAGE / folder).rglob("*.py"))
    assert files
    allowed = (folder, *MAY_IMPORT[folder])
    for file in files:
        for name in imported(file) - {"errors", "files"}:
            assert any(name == entry or name.startswith(f"{entry}.") for entry in allowed), f"{file.name}: {name}"


def test_every_module_says_what_it_is() -> None:
    for file in PACKAGE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(file.read_text())), file
