"""Layer groups are the named parts of a network, from input to head, that are frozen and thawed together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import accumulate

from torch import nn

from lightning_transfer.errors import UserError

# Either a list of paths from input to head, or group name -> paths.
LayerGroups = Sequence[str] | Mapping[str, Sequence[str] | str]

# The name of the group that holds the parameters outside all layer groups.
REST = "rest"


@dataclass
class LayerGroup:
    """One layer group of one module.

    Attributes:
        name: The group's name.
        parameters: Full name in the module -> parameter. A tied parameter is in one group only, so a group has no
            parameters if all its weights are tied to those of another group.
        modules: Every submodule below the group's paths, containers included.
        frozen: Parameters of the group that never train, by name. They are in ``parameters`` no longer.
    """

    name: str
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)
    modules: list[nn.Module] = field(default_factory=list)
    frozen: dict[str, nn.Parameter] = field(default_factory=dict)


def group_patterns(layer_groups: LayerGroups) -> dict[str, list[str]]:
    """Brings both notations of layer groups into one.

    Args:
        layer_groups: The groups from input to head. In a list of module paths or glob patterns, each is a group named
            by its pattern; a mapping gives the patterns of each group's name.

    Returns:
        Group name -> patterns, from input to head.

    Raises:
        UserError: If there is no group, a group has no pattern, or a name comes twice.
    """
    if isinstance(layer_groups, Mapping):
        groups = {name: [value] if isinstance(value, str) else list(value) for name, value in layer_groups.items()}
    elif isinstance(layer_groups, str):
        raise UserError(f"layer_groups is the text {layer_groups!r}: expected a list of paths, from input to head")
    elif not isinstance(layer_groups, Sequence) or not all(isinstance(pattern, str) for pattern in layer_groups):
        raise UserError(f"layer_groups is {layer_groups!r}: expected a list of module paths, from input to head")
    else:
        groups = {pattern: [pattern] for pattern in layer_groups}
        for name in groups:
            if list(layer_groups).count(name) > 1:
                raise UserError(f"layer group {name!r} is listed twice: list each group once, from input to head")
    if not groups:
        raise UserError("layer_groups is empty: expected at least one module path, from input to head")
    for name, patterns in groups.items():
        if not patterns:
            raise UserError(f"layer group {name!r} is empty: expected at least one module path")
    return groups


def resolve_layer_groups(
    module: nn.Module, layer_groups: LayerGroups, thaw_order: Sequence[str] = (), rest: str | None = None
) -> dict[str, LayerGroup]:
    """Finds the parameters and submodules of each layer group.

    A pattern names a module or a parameter by its path and takes everything below it. Paths are compared component by
    component, so ``backbone.1`` never takes ``backbone.10`` and ``*`` never crosses a dot. The ``_orig_mod`` that
    ``torch.compile`` puts into a path is skipped.

    Args:
        module: The module that the paths start from.
        layer_groups: See :func:`group_patterns`.
        thaw_order: Group names in the order in which they are trained. A parameter that several groups share (tied
            weights) belongs to the first of them. If the order names none, it belongs to the one nearest the head.
        rest: How to treat trainable parameters outside all groups. ``None`` makes them an error; ``"frozen"`` or
            ``"trainable"`` returns them as one more group, named ``rest``.

    Returns:
        Group name -> group, from input to head, ``rest`` last.

    Raises:
        UserError: If a pattern matches nothing, two groups claim one name, a group has no parameters or parameters
            are left over.
    """
    patterns = group_patterns(layer_groups)
    paths = [name for name, _ in [*module.named_modules(), *module.named_parameters(remove_duplicate=False)] if name]
    for name, listed in patterns.items():
        for pattern in listed:
            if not any(_matches(pattern, path) for path in paths):
                raise UserError(f"layer group {name!r}: {pattern!r} matches nothing; {_what_exists(pattern, paths)}")

    order = [*thaw_order, *reversed(patterns)]
    groups = {name: LayerGroup(name) for name in patterns}
    left_over = LayerGroup(REST)
    for names in _tied_names(module):
        parameter = module.get_parameter(names[0])
        owners = [owner for name in names if (owner := _owner(name, patterns)) is not None]
        if owners and (parameter.is_floating_point() or parameter.is_complex()):  # quantised weights cannot be trained
            groups[min(owners, key=order.index)].parameters[names[0]] = parameter
        elif not owners and parameter.requires_grad:
            left_over.parameters[names[0]] = parameter
    for path, submodule in module.named_modules():
        groups.get(_owner(path, patterns) or REST, left_over).modules.append(submodule)

    for group in groups.values():
        if not any(True for submodule in group.modules for _ in submodule.parameters()) and not group.parameters:
            raise UserError(f"layer group {group.name!r} ({', '.join(patterns[group.name])}) has no parameters")
    if left_over.parameters and rest is None:
        raise UserError(
            f"in no layer group: {some_of(left_over.parameters)}; add a group, or set rest to 'frozen' or 'trainable'"
        )
    if REST in groups and rest is not None:
        raise UserError(f"the layer group name {REST!r} is taken by what is outside all groups; rename your group")
    return groups | ({REST: left_over} if rest is not None else {})


def shortest_paths(group_of: Mapping[str, str]) -> dict[str, list[str]]:
    """Writes layer groups as few paths, so that a group also takes the layers without parameters between its own.

    Args:
        group_of: Name of each parameter of a module -> its group.

    Returns:
        Group name -> the shortest paths below which all parameters are the group's. The groups are in the order in
        which they come first.
    """
    groups_below: dict[str, set[str]] = {}
    for name, group in group_of.items():
        for path in accumulate(name.split("."), "{}.{}".format):
            groups_below.setdefault(path, set()).add(group)
    paths: dict[str, dict[str, None]] = {}
    for name, group in group_of.items():
        prefixes = accumulate(name.split("."), "{}.{}".format)
        paths.setdefault(group, {})[next(path for path in prefixes if len(groups_below[path]) == 1)] = None
    return {group: list(listed) for group, listed in paths.items()}


def some_of(names: Iterable[str], limit: int = 8) -> str:
    """Joins names for a message, no more than ``limit`` of them."""
    listed = list(names)
    return ", ".join(listed[:limit]) + (f" and {len(listed) - limit} more" if len(listed) > limit else "")


def _components(path: str) -> list[str]:
    return [component for component in path.split(".") if component != "_orig_mod"]


def _matches(pattern: str, path: str) -> bool:
    globs, components = pattern.split("."), _components(path)
    return len(globs) <= len(components) and all(map(fnmatchcase, components, globs))


def _owner(path: str, patterns: Mapping[str, list[str]]) -> str | None:
    claims = [group for group, listed in patterns.items() if any(_matches(pattern, path) for pattern in listed)]
    if len(claims) > 1:
        raise UserError(f"layer groups {claims[0]!r} and {claims[1]!r} overlap: both take {path!r}")
    return claims[0] if claims else None


def _tied_names(module: nn.Module) -> Iterable[list[str]]:
    """Lists all names of each parameter. Identity decides, because weights of equal values are not tied."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names.values()


def _what_exists(pattern: str, paths: list[str]) -> str:
    """Lists the names at the first level where the pattern matches none."""
    globs = pattern.split(".")
    for depth in range(len(globs)):
        below = [_components(path) for path in paths if depth == 0 or _matches(".".join(globs[:depth]), path)]
        names = dict.fromkeys(components[depth] for components in below if len(components) > depth)
        if not any(fnmatchcase(name, globs[depth]) for name in names):
            break
    place = f"{'.'.join(globs[:depth])!r} has" if depth else "there are"
    return f"{place} {some_of(names, limit=20) or 'no parts'}"
