"""Builds the parts of an experiment within the memory that is free, and names the size that asked for more."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from lightning_transfer.cli.origins import origin
from lightning_transfer.data.memory import bounded_memory, free_bytes, in_gib, is_refused
from lightning_transfer.errors import UserError

_MOST_NAMED = 3


@contextlib.contextmanager
def within_memory(config: Mapping[str, Any]) -> Iterator[None]:
    """Refuses an experiment that cannot be built in the free memory, in a block that builds it.

    Args:
        config: The config of the command, in plain types.

    Raises:
        UserError: If memory was refused. The line names the largest numbers of the model and the data.
    """
    free = free_bytes()
    try:
        with bounded_memory():
            yield
    except Exception as error:
        if not is_refused(origin(error)):
            raise
        sizes = {key: size for section in ("model", "data") for key, size in _sizes(config.get(section), section)}
        named = [f"{key} is {sizes[key]}" for key in sorted(sizes, key=sizes.__getitem__, reverse=True)]
        raise UserError(
            f"{', '.join(named[:_MOST_NAMED])}: expected sizes for which the {in_gib(free)} of free memory suffice;"
            " give smaller ones"
        ) from error


def _sizes(value: Any, key: str) -> Iterator[tuple[str, int]]:
    """Finds the whole numbers of a config by their dotted keys, seeds left out."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _sizes(part, key if name == "init_args" else f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for place, part in enumerate(value):
            yield from _sizes(part, f"{key}[{place}]")
    elif isinstance(value, int) and value > 1 and not key.endswith("seed"):
        yield key, value
