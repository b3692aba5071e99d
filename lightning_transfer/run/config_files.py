"""Finds a config file by its name, in the working directory, its folder ``configs`` or the package, and reads it."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lightning_transfer.errors import UserError, in_one_line

YAML = (".yaml", ".yml")
_FOLDER = "configs"
_INSIDE = Path(__file__).parents[1] / _FOLDER  # where a wheel has them; a clone has them beside the package
_MOST_VALUES = 100_000  # of a config, with every alias written out
PACKAGED = _INSIDE if _INSIDE.is_dir() else _INSIDE.parents[1] / _FOLDER


def find_config(name: str, kind: str = "") -> Path:
    """Finds a config file.

    Args:
        name: A file, or the name of one, with or without ``configs/`` and ``.yaml``: ``quickstart``,
            ``hardware/cpu``.
        kind: Folder of configs in which the name is looked up first, such as ``strategies``.

    Returns:
        The file. One of the working directory comes first, then one of its folder ``configs``, then the package's own.

    Raises:
        UserError: If there is none. It names those that are near, or else all that there are.
    """
    found = known_config(name, kind)
    if found is None:
        where = f"neither a file in {Path.cwd()} nor a config of the package"
        raise UserError(f"config {name!r} is {where}: {_near(name, kind)}")
    return found


def known_config(name: str, kind: str = "") -> Path | None:
    """Finds a config file as :func:`find_config` does; None if there is none."""
    if name.endswith(YAML) and Path(name).is_file():
        return Path(name)
    return next((file for file in _candidates(name, kind) if file.is_file()), None)


def portable_name(file: Path) -> str:
    """Names a config file so that any installation of the package finds it, for commands that are written down."""
    is_packaged = file.is_relative_to(PACKAGED)
    return f"{_FOLDER}/{file.relative_to(PACKAGED).as_posix()}" if is_packaged else str(file)


def read_yaml(file: Path) -> Any:
    """Reads a config as data.

    Raises:
        UserError: If it is no text, not valid YAML, or has no end.
    """
    try:
        return parse_yaml(text_of_config(file), str(file))
    except yaml.YAMLError as error:
        raise not_yaml(f"config {file}", error) from error


def not_yaml(name: str, error: yaml.YAMLError) -> UserError:
    """Says in one line why a text is not YAML, with the place of its mistake where the parser knows it."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return UserError(f"{name} is not YAML: {in_one_line(error)}")
    mark = error.problem_mark
    return UserError(f"{name} is not YAML: {error.problem} (line {mark.line + 1}, column {mark.column + 1})")


def text_of_config(file: Path) -> str:
    """Reads the text of a config.

    Raises:
        UserError: If it is not in UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no text in UTF-8: expected a config in YAML") from error


def parse_yaml(text: str, name: str) -> Any:
    """Parses YAML as data: dictionaries, lists, texts and numbers.

    Args:
        text: The text.
        name: What the error calls it.

    Raises:
        UserError: If a key is given twice, an alias contains itself, aliases of aliases would fill the memory, or it is
            nested too deeply.
        yaml.YAMLError: If it is not valid YAML.
    """
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        values = _values(root, {})
        if values > _MOST_VALUES:
            raise UserError(f"{name} has {values:,} values through its aliases: expected at most {_MOST_VALUES:,}")
        return loader.construct_document(root)
    except RecursionError as error:
        raise UserError(f"{name} is nested too deeply: expected a config") from error
    except _ContainsItselfError as error:
        where = f"line {error.args[0]}"
        raise UserError(f"{name} has an alias that contains itself ({where}): expected values that end") from error
    except _RepeatedKeyError as error:
        key, *lines = error.args
        where = " and ".join(map(str, lines))
        raise UserError(
            f"{name} has {key} twice (lines {where}): expected it once, with all that is below it"
        ) from error
    finally:
        loader.dispose()


class _ContainsItselfError(Exception):
    """A node of a YAML text is below itself; the argument is its line."""


class _RepeatedKeyError(Exception):
    """A mapping of a YAML text has a key twice, of which a parser drops one; the arguments are it and its lines."""


def _values(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Counts the values of a node, with aliases written out; ``known`` has those counted, and None for those begun."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = None
        _check_keys(node)
        children = node.value if isinstance(node, yaml.SequenceNode) else [one for pair in node.value for one in pair]
        known[id(node)] = 1 + sum(_values(child, known) for child in children)
    count = known[id(node)]
    if count is None:
        raise _ContainsItselfError(node.start_mark.line + 1)
    return count


def _check_keys(node: yaml.Node) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value if isinstance(node, yaml.MappingNode) else []:
        if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
            continue
        name, line = (key.tag, key.value), key.start_mark.line + 1
        if name in lines:
            raise _RepeatedKeyError(key.value, lines[name], line)
        lines[name] = line


def _candidates(name: str, kind: str) -> Iterator[Path]:
    place = name.removeprefix(f"{_FOLDER}/")
    for below in [f"{kind}/", ""] if kind else [""]:
        for folder, word in ((Path(), name), (Path(_FOLDER), place), (PACKAGED, place)):
            if folder is not PACKAGED or _is_within(word):
                yield from (folder / f"{below}{word}{ending}" for ending in ("", *YAML))


def _is_within(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _near(name: str, kind: str) -> str:
    """Asks which config was meant, by the last part of its name, or lists all of its kind."""
    names = _names()
    stem = Path(name).name.removesuffix(".yaml").removesuffix(".yml")
    near = difflib.get_close_matches(stem, {known.rpartition("/")[2] for known in names})
    if meant := [known for word in near for known in names if known.rpartition("/")[2] == word]:
        return f"did you mean {' or '.join(meant)}?"
    return f"expected a file, or one of {', '.join(known for known in names if known.startswith(kind))}"


def _names() -> list[str]:
    """Lists what there is, in the folder ``configs`` of the working directory and in the package."""
    folders = (Path(_FOLDER), PACKAGED)
    found = {file.relative_to(folder) for folder in folders for file in folder.rglob("*.yaml")}
    return sorted((file.with_suffix("").as_posix() for file in found), key=lambda name: ("/" in name, name))
