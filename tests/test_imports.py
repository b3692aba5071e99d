"""Who may import whom: networks and data stand alone, nothing reaches up, and every room says what it is for."""

import ast
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lightning_transfer"
# Modules that stand at the top because every room may import them.
FOR_ALL = {"directions", "errors", "files", "keywords", "lightning_internals", "seeds"}
# Each folder, and what of this package its modules may import besides their own folder and what is for all.
MAY_IMPORT = {
    "networks": (),
    "data": (),
    "modules": ("transfer.param_groups", "networks", "data.batches", "data.cache"),
    "transfer": ("networks",),
    "cluster": ("networks.layer_groups",),
    # What is drawn into TensorBoard and into a page is drawn by the same code.
    "dashboards": ("report", "transfer", "networks.layer_groups", "data.batches", "run.record", "run.best_checkpoint"),
    "report": ("study.statistics",),
    "run": ("cluster", "transfer", "data"),
    "trackers": (),
    # It takes away the dashboards that show examples.
    "privacy": ("modules", "dashboards", "transfer", "data.batches"),
    # cli.entry: a cell is a command line, and cli.experiment is what it loads.
    "study": ("report", "transfer", "run", "cluster.signals", "cluster.orphans", "cli.entry", "cli.experiment"),
    "cli": (
        *("study", "run", "trackers", "report", "dashboards", "modules", "transfer", "data", "networks", "cluster"),
    ),
}
# The modules at the top, likewise.
TOP = {
    "__init__": tuple(MAY_IMPORT),  # for type checkers alone; at run time a name is imported when it is used
    "__main__": ("cli", "cluster"),
    "directions": (),
    "errors": (),
    "files": (),
    "keywords": (),
    "lightning_internals": (),
    "seeds": (),
}


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    ours = {name.removeprefix("lightning_transfer.") for name in names if name.startswith("lightning_transfer.")}
    # `from a.b import name` counts as a.b.name too: keep what is a module.
    return {name for name in ours if (PACKAGE / f"{name.replace('.', '/')}.py").exists()}


def unwanted(file: Path, allowed: tuple[str, ...]) -> list[str]:
    names = imported(file) - FOR_ALL
    return [name for name in names if not any(name == entry or name.startswith(f"{entry}.") for entry in allowed)]


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_folder_imports_only_what_it_may(folder: str) -> None:
    files = list((PACKAGE / folder).rglob("*.py"))
    assert files
    assert {file.name: names for file in files if (names := unwanted(file, (folder, *MAY_IMPORT[folder])))} == {}


@pytest.mark.parametrize("module", TOP)
def test_module_at_the_top_imports_only_what_it_may(module: str) -> None:
    assert unwanted(PACKAGE / f"{module}.py", TOP[module]) == []


def test_every_folder_and_every_module_at_the_top_is_held() -> None:
    assert {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists()} == set(MAY_IMPORT)
    assert {file.stem for file in PACKAGE.glob("*.py")} == set(TOP)
    assert len([*PACKAGE.glob("*.py")]) <= 8


def test_no_two_modules_share_a_name() -> None:
    names = Counter(file.stem for file in PACKAGE.rglob("*.py") if file.stem != "__init__")
    names.update(folder.name for folder in PACKAGE.iterdir() if folder.is_dir())
    assert [name for name, count in names.items() if count > 1] == []


def test_every_module_says_what_it_is() -> None:
    for file in PACKAGE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(file.read_text())), file
