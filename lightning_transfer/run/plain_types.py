"""Turns checkpoints into plain types, which any command reads without running code."""

import io
import os
import pickle
from collections import Counter, OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from lightning_transfer.errors import UserError

_PLAIN = (type(None), bool, int, float, complex, str, bytes, Tensor, torch.nn.Parameter, torch.Size)


def plain(value: Any, name: str = "") -> Any:
    """Turns a value for a checkpoint into plain types, where nothing is lost by it.

    A path becomes text, and a member of an enumeration becomes its value. A number of numpy becomes one of Python, an
    array of numpy a tensor, and any other mapping a dictionary.

    Args:
        value: The value that is saved. It stays as it is.
        name: Its name, for the error.

    Returns:
        The plain value; the same object where all of it is plain already.

    Raises:
        UserError: If no command could read the object from the checkpoint. It says the object's name and type.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Enum):
        return plain(value.value, name)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic) and not isinstance(value.item(), np.generic):
        return plain(value.item(), name)
    if isinstance(value, np.ndarray):
        with suppress(TypeError):  # torch has no tensors of text or objects
            return torch.from_numpy(np.array(value))
    if isinstance(value, Mapping):
        return _plain_mapping(value, name)
    if type(value) in (list, tuple, set):
        members = [plain(member, f"{name}[{place}]") for place, member in enumerate(value)]
        is_same = all(new is old for new, old in zip(members, value, strict=True))
        return value if is_same else type(value)(members)
    if _is_readable(value):
        return value
    raise UserError(
        f"{name} is {type(value).__name__}, which no command would read from the checkpoint: keep plain types and"
        f" tensors there, or leave it out, for example by save_hyperparameters(ignore=[{name.rpartition('.')[2]!r}])"
    )


def check_plain(trainer: L.Trainer) -> None:
    """Checks, before the training, that all of its checkpoint can be read later.

    Raises:
        UserError: If a part cannot be read. It names the part.
    """
    checkpoint: dict[str, Any] = {}
    # A user's hook may need values that only the training makes. It is called again when the checkpoint is written.
    with suppress(Exception):
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    plain(checkpoint)


def _plain_mapping(value: Mapping[Any, Any], name: str) -> Any:
    prefix = f"{name}." if name else ""
    items = {plain(key, f"a key of {name}"): plain(member, f"{prefix}{key}") for key, member in value.items()}
    is_same = all(new is old and member is items[new] for new, (old, member) in zip(items, value.items(), strict=True))
    # An ordered dictionary, such as a state_dict, would lose its attributes.
    return value if is_same and type(value) in (dict, OrderedDict, Counter) else items


def _is_readable(value: Any) -> bool:
    """Says whether torch reads the object without running code, such as a device or a type that a user has allowed."""
    stream = io.BytesIO()
    try:
        torch.save(value, stream)
        stream.seek(0)
        torch.load(stream, weights_only=True)
    except (pickle.PickleError, AttributeError, TypeError, RuntimeError):
        return False
    return True
