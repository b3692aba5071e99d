"""Turns nested settings into command-line flags, and expands their ``{grid: [...]}`` leaves into variants."""

import copy
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from lightning_transfer.errors import UserError

Path = tuple[str, ...]
# The dotted name of each leaf of the grid, and its value as text, because 0 and False would be the same key.
Variant = tuple[tuple[str, str], ...]


def expand(settings: Mapping[str, Any]) -> dict[Variant, dict[str, Any]]:
    """Makes every combination of the values of the ``{grid: [...]}`` leaves.

    Args:
        settings: Nested settings. Without such a leaf, their only variant is ``()``.

    Returns:
        The settings of each variant.

    Raises:
        UserError: For a leaf that is no list, is empty, or belongs to no setting.
    """
    leaves = list(_grid_leaves(settings, ()))
    variants = {}
    for values in itertools.product(*(values for _, values in leaves)):
        changed = copy.deepcopy(dict(settings))
        for (path, _), value in zip(leaves, values, strict=True):
            *parents, last = path
            parent = changed
            for key in parents:
                parent = parent[key]
            parent[last] = value
        names = (".".join(path) for path, _ in leaves)
        variants[tuple(zip(names, map(_text, values), strict=True))] = changed
    return variants


def has_grid(value: Any) -> bool:
    """Says whether a value is a ``{grid: [...]}`` or has one in it."""
    return isinstance(value, Mapping) and (set(value) == {"grid"} or any(map(has_grid, value.values())))


def flags(settings: Mapping[str, Any]) -> dict[str, str]:
    """Flattens nested settings to dotted names, with their values as the command line reads them.

    A class with its arguments stays whole, and so do values that are appended to a list (``callbacks+``).
    """
    return {name: _text(value) for name, value in leaves(settings)}


def plain_name(name: str) -> str:
    """Writes the name of a setting as its shorter form, without the parts ``init_args``."""
    return ".".join(part for part in name.split(".") if part != "init_args")


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flattens nested mappings and lists to a mapping from dotted names to leaves."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if items is None or not value:
        return {prefix: value}
    return {name: leaf for key, inner in items for name, leaf in flatten(inner, f"{prefix}.{key}".lstrip(".")).items()}


def leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Lists what :func:`flags` flattens: a dotted name comes twice where it is written in two ways."""
    for key, value in settings.items():
        whole = not value or not isinstance(value, Mapping) or "class_path" in value or str(key).endswith("+")
        yield from [(f"{prefix}{key}", value)] if whole else leaves(value, f"{prefix}{key}.")


def _grid_leaves(value: Any, path: Path) -> Iterator[tuple[Path, list[Any]]]:
    if not isinstance(value, Mapping):
        return
    if set(value) == {"grid"}:
        values = value["grid"]
        if not isinstance(values, list) or not values:
            raise UserError(f"the grid of {'.'.join(path)} is {values!r}: expected a list of values")
        if not path:
            raise UserError(f"the grid {values} belongs to no setting: expected a name above it, as model.lr_decay")
        yield path, values
        return
    for key, inner in value.items():
        yield from _grid_leaves(inner, (*path, key))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
