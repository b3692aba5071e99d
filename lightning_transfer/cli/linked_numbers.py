"""What of the model follows from its data, the numbers of classes and tokens and the problem type, or is given."""

import inspect
import pkgutil
from typing import Any

from jsonargparse import Namespace

from lightning_transfer.errors import UserError

# Arguments of the model, as options. Ignored where a class has no such argument.
TARGETS = ("problem_type", "num_classes", "network.num_classes", "network.vocabulary_size")


def config_key(target: str) -> str:
    """The key of an option of the model in a config."""
    return f"model.init_args.{target.replace('.', '.init_args.')}"


def linked_number(config: Namespace, target: str, data: Any) -> int | str | None:
    """Decides a number, or the problem type: that of the data, or where these have none, the one that is given.

    Args:
        config: That of the command. A number that follows from the data is taken out, so that the config as saved fits
            other data too.
        target: The option of the model.
        data: The data module.

    Raises:
        UserError: For another number than that of the data, and for none at all where the class needs one.
    """
    key, (_, _, name) = config_key(target), target.rpartition(".")
    if key not in config:
        return None
    given: int | str | None = config[key]
    found: int | str | None = getattr(data, name, None)
    default = _default(config, key)
    if found is None:
        if given is None and default is inspect.Parameter.empty:
            raise UserError(f"the data has no {name}: choose other data, or give --model.{target}")
        return given
    if given not in (None, found, default):
        raise UserError(f"model.{target} is {given}, and the data has {found}: leave it out, it follows from the data")
    del config[key]
    return found


def _default(config: Namespace, key: str) -> Any:
    """The default of an argument of a class that a config names; a base class may have it."""
    owner, _, name = key.rpartition(".init_args.")
    named = pkgutil.resolve_name(config[f"{owner}.class_path"])
    classes = [one for one in inspect.getmro(named) if "__init__" in vars(one)] if inspect.isclass(named) else [named]
    for origin in classes:
        if parameter := inspect.signature(origin).parameters.get(name):
            return parameter.default
    return None
