"""Lets ``--config`` take the name of a config wherever it lies."""

from typing import Any

import yaml
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]  # it is exported without being listed

from lightning_transfer.run.config_files import find_config

CONFIG_ACTIONS = ("config", ActionConfigFile)  # how arguments that take config files are declared


class NamedConfig(ActionConfigFile):
    """Applies a config that is given as a file, by its name, or as a mapping in YAML."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Applies the config over what was given before."""
        config = values if _is_mapping(values) else str(find_config(values))
        super().__call__(parser, cfg, config, option_string)  # type: ignore[no-untyped-call]


def _is_mapping(text: str) -> bool:
    try:
        return isinstance(yaml.safe_load(text), dict)
    except yaml.YAMLError:
        return False
