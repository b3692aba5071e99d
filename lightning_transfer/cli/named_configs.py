"""Lets ``--config`` take the name of a config wherever it lies, and refuses a text that no config can be."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]  # it is exported without being listed

from lightning_transfer.errors import UserError
from lightning_transfer.run.config_files import find_config, not_yaml, parse_yaml, text_of_config

CONFIG_ACTIONS = ("config", ActionConfigFile)  # how arguments that take config files are declared


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
            text = text_of_config(Path(config))
        _check(text, name, parser)
        super().__call__(parser, cfg, config, option_string)  # type: ignore[no-untyped-call]


def _check(text: str, name: str, parser: Any) -> None:
    """Refuses a YAML text that no config can be.

    One has no end. One has a value in the place of a section, such as ``trainer: 2``: the parser would forget the whole
    section.
    """
    try:
        content = parse_yaml(text, name)
    except yaml.YAMLError as error:
        raise not_yaml(name, error) from error
    for key, value in content.items() if isinstance(content, dict) else ():
        if key in (parser.groups or {}) and not isinstance(value, dict | str):  # a text names a class or a file
            shown = "null" if value is None else value
            raise UserError(f"{key} is {shown}: expected a mapping of its settings, or leave it out")


def _is_mapping(text: str) -> bool:
    try:
        return isinstance(parse_yaml(text, "the config"), dict)
    except yaml.YAMLError:
        return False
