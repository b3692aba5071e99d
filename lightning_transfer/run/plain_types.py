"""Checkpoints of plain types, which any command reads without running anything."""

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
    """Turns what goes into a checkpoint into plain types, where nothing is lost by it.

    A path becomes text, a member of an enumeration its value, a number of numpy one of Python, an array of numpy a
    tensor, and any other mapping a dictionary.

    Args:
        value: What is saved. It stays as it is.
        name: Its name, for the error.

    Returns:
        The very same object where all of it is plain already.

    Raises:
        UserError: For any other object, which no command would read from the checkpoint: with its name and type.
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
        with suppress(TypeError):  # an array of text or of objects
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
    """Checks, before the training, that all of its checkpoint would be read.

    Raises:
        UserError: With the name of what would not.
    """
    checkpoint: dict[str, Any] = {}
    # A hook of the user's may need what only the training brings: it is heard again when the checkpoint is written.
    with suppress(Exception):
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    plain(checkpoint)


def _plain_mapping(value: Mapping[Any, Any], name: str) -> Any:
    prefix = f"{name}." if name else ""
    items = {plain(key, f"a key of {name}"): plain(member, f"{prefix}{key}") for key, member in value.items()}
    is_same = all(new is old and member is items[new] for new, (old, member) in zip(items, value.items(), strict=True))
    # Of an ordered one, such as a state_dict, the attributes would be lost.
    return value if is_same and type(value) in (dict, OrderedDict, Counter) else items


def _is_readable(value: Any) -> bool:
    """Whether torch reads the object without running code, as it does a device, and what a user has told it to."""
    stream = io.BytesIO()
    try:
        torch.save(value, stream)
        stream.seek(0)
        torch.load(stream, weights_only=True)
    except (pickle.PickleError, AttributeError, TypeError, RuntimeError):
        return False
    return True
