"""Builds the parts of an experiment within the memory that is free, and names the size that asked for more."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from lightning_transfer.cli.finite_numbers import values_of
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
        sizes = {
            key: value
            for section in ("model", "data")
            for key, value in values_of(config.get(section), section)
            if isinstance(value, int) and value > 1 and not key.endswith("seed")
        }
        named = [f"{key} is {sizes[key]}" for key in sorted(sizes, key=sizes.__getitem__, reverse=True)]
        raise UserError(
            f"{', '.join(named[:_MOST_NAMED])}: expected sizes for which the {in_gib(free)} of free memory suffice;"
            " give smaller ones"
        ) from error
