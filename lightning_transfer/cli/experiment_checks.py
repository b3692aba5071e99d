"""Checks the config of an experiment before anything of it is built."""

import inspect
import pkgutil
from typing import Any

from jsonargparse import Namespace

from lightning_transfer.cli.finite_numbers import check_numbers
from lightning_transfer.cli.linked_numbers import TARGETS, config_key
from lightning_transfer.errors import UserError, require_library
from lightning_transfer.files import check_name


def check_settings(config: Namespace) -> None:
    """Refuses settings that no experiment can have, beside its model, data and trainer.

    Args:
        config: The config of a command.

    Raises:
        UserError: For the first such setting.
    """
    if config["resume"] is not None:
        raise UserError(f"--resume is {config['resume']}: expected it on the command line of fit, and nowhere else")
    for option in ("experiment", "logs"):
        if config[option] is None:
            raise UserError(f"{option} is null: expected text, or leave it out")
    for option in ("experiment", "version"):
        if (name := config[option]) is not None:
            check_name(name, f"--{option}")
    for option in ("ckpt_path", "init_from"):
        if config[option] == "":
            raise UserError(f"--{option} is empty: name a file, or leave it out")
    check_numbers(config)
    for place in ("model", "model.init_args.network", "data"):
        _require_values(config, place)


def _require_values(config: Namespace, place: str) -> None:
    """Refuses an argument without a value that its class needs: where it has no type, the parser takes it for null."""
    named = config.get(f"{place}.class_path")
    parameters = inspect.signature(pkgutil.resolve_name(named)).parameters.values() if named else ()
    linked = {config_key(target) for target in TARGETS}
    for parameter in parameters:
        key = f"{place}.init_args.{parameter.name}"
        has_neither = parameter.default is parameter.annotation is inspect.Parameter.empty
        if has_neither and key not in linked and config.get(key, "") is None:
            option = key.replace("init_args.", "")
            raise UserError(f"{option} is null: expected a value, as {named} needs one; give it by --{option}")


def require_libraries(config: Namespace, with_module: bool) -> None:
    """Refuses a network whose library is not installed, before any data is read.

    Args:
        config: The config of a command.
        with_module: Whether the library of the module is needed too, as in a fit.

    Raises:
        UserError: With the line that installs the library.
    """
    places = ("model", "model.init_args.network") if with_module else ("model.init_args.network",)
    for place in places:
        named = config.get(f"{place}.class_path")
        found: Any = pkgutil.resolve_name(named) if named else None
        if (library := getattr(found, "library", None)) is not None:
            require_library(library, found.__name__)
