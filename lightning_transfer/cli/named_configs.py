"""Lets ``--config`` take the name of a config wherever it lies, and refuses a text that no config can be."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]  # it is exported without being listed

from lightning_transfer.errors import UserError
from lightning_transfer.run.config_files import find_config

CONFIG_ACTIONS = ("config", ActionConfigFile)  # how arguments that take config files are declared
_MOST_VALUES = 100_000  # with every alias written out


class NamedConfig(ActionConfigFile):
    """Applies a config that is given as a file, by its name, or as a mapping in YAML."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Applies the config over what was given before.

        Raises:
            UserError: If there is no such file, it is not a text, its aliases have no end, or it replaces a section.
        """
        if _is_mapping(values):
            config, text, name = values, values, "the config"
        else:
            config = name = str(find_config(values))
            text = _text(Path(config))
        _check(text, name, parser)
        super().__call__(parser, cfg, config, option_string)  # type: ignore[no-untyped-call]


def _check(text: str, name: str, parser: Any) -> None:
    """Refuses a YAML text that no config can be.

    One has an alias that contains itself, or aliases of aliases that fill the memory. One has a value in the place of a
    section, such as ``trainer: 2``: the parser would forget the whole section. A text that is not valid YAML is left to
    the parser, which says where its mistake is.
    """
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return
        values = _values(root, {})
        if values > _MOST_VALUES:
            raise UserError(f"{name} has {values:,} values through its aliases: expected at most {_MOST_VALUES:,}")
        content = loader.construct_document(root)
    except yaml.YAMLError:
        return
    except RecursionError as error:
        raise UserError(f"{name} is nested too deeply: expected a config") from error
    except _ContainsItselfError as error:
        where = f"line {error.args[0]}"
        raise UserError(f"{name} has an alias that contains itself ({where}): expected values that end") from error
    finally:
        loader.dispose()
    for key, value in content.items() if isinstance(content, dict) else ():
        if key in (parser.groups or {}) and not isinstance(value, dict | str):  # a text names a class or a file
            shown = "null" if value is None else value
            raise UserError(f"{key} is {shown}: expected a mapping of its settings, or leave it out")


class _ContainsItselfError(Exception):
    """A node of a YAML text is below itself; the argument is its line."""


def _values(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Counts the values of a node, with aliases written out; ``known`` has those counted, and None for those begun."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = None
        children = node.value if isinstance(node, yaml.SequenceNode) else [one for pair in node.value for one in pair]
        known[id(node)] = 1 + sum(_values(child, known) for child in children)
    count = known[id(node)]
    if count is None:
        raise _ContainsItselfError(node.start_mark.line + 1)
    return count


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no text in UTF-8: expected a config in YAML") from error


def _is_mapping(text: str) -> bool:
    try:
        return isinstance(yaml.safe_load(text), dict)
    except yaml.YAMLError:
        return False
