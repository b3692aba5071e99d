"""Links the model to its data: the problem type and the numbers of classes and tokens, unless the data has none."""

import inspect
import pkgutil
from typing import Any

from jsonargparse import Namespace

from lightning_transfer.errors import UserError

# These arguments of the model, written as options, are ignored where a class does not have them.
TARGETS = (
    *("problem_type", "num_classes", "problem_types", "outputs", "language_tasks"),
    *("network.num_classes", "network.vocabulary_size"),
)


def config_key(target: str) -> str:
    """Returns the key in a config of an option of the model."""
    return f"model.init_args.{target.replace('.', '.init_args.')}"


def linked_number(config: Namespace, target: str, data: Any) -> Any:
    """Decides a number or the problem type, or those of several tasks: the data's, or the given where it has none.

    Args:
        config: The config of the command. A number that follows from the data is taken out, so that the saved config
            fits other data too.
        target: The option of the model.
        data: The data module.

    Returns:
        The value; None where the class does not have the argument or needs none.

    Raises:
        UserError: If the given value is not that of the data, or there is none and the class needs one.
    """
    key, (_, _, name) = config_key(target), target.rpartition(".")
    if key not in config:
        return None
    given: Any = config[key]
    found: Any = getattr(data, name, None)
    default = _default(config, key)
    if found is None:
        if given is None and default is inspect.Parameter.empty:
            others = "MultiTaskDataModule" if target == "outputs" else "other data"
            raise UserError(f"the data has no {name}: choose {others}, or give --model.{target}")
        return given
    if given not in (None, found, default):
        raise UserError(f"model.{target} is {given}, and the data has {found}: leave it out, it follows from the data")
    del config[key]
    return found


def _default(config: Namespace, key: str) -> Any:
    """Returns the default of an argument of a class that a config names. A base class may have the argument."""
    owner, _, name = key.rpartition(".init_args.")
    named = pkgutil.resolve_name(config[f"{owner}.class_path"])
    classes = [one for one in inspect.getmro(named) if "__init__" in vars(one)] if inspect.isclass(named) else [named]
    for origin in classes:
        if parameter := inspect.signature(origin).parameters.get(name):
            return parameter.default
    return None
