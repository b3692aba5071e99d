"""Finds a network's tensors in a file, by the prefixes on both sides under which most names and shapes agree."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import some_of

OUTERMOST = "."  # names the part of a file that begins at its outermost names

_MOST_RIVALS = 50  # where so many fit, none fits well

Alignment = dict[str, str]  # the name of each tensor of the module, by that of the source


def align(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], part: str | None = None
) -> tuple[Alignment, list[str]]:
    """Finds what the source's tensors are called in the module.

    Args:
        weights: The source's tensors by their full names in the file, such as ``model.backbone.conv1.weight``.
        own: The module's tensors by name.
        part: Components that the names of the network's tensors must contain, such as ``teacher``.

    Returns:
        The source's names under the best prefix, each with the module's name for it; and a list of prefixes. The list
        is empty where the best prefix is the only one. Otherwise it holds the best one, and then those of other parts
        that fit equally and hold other numbers.

    Raises:
        UserError: If the source does not have the part.
    """
    if part not in (None, OUTERMOST) and not any(_is_under(name, part) for name in weights):
        raise UserError(f"the weights have no part {part!r}: expected one of {some_of(_parts(weights), limit=6)}")
    pairs = _best_pairs(weights, own, part)
    best, rivals = _renamed(weights, *pairs[0]), []
    seen = [_matched(best, own)]
    for theirs, ours in pairs[1:_MOST_RIVALS]:
        other = _renamed(weights, theirs, ours)
        # Nested prefixes may match the same tensors, and a file may hold the same numbers twice.
        if (matched := _matched(other, own)) not in seen and not _is_equal(weights, own, best, other):
            seen.append(matched)
            rivals.append(theirs)
    return best, [prefix.rstrip(".") or OUTERMOST for prefix in (pairs[0][0], *rivals)] if rivals else []


def _matched(names: Alignment, own: Mapping[str, Tensor]) -> set[str]:
    return {name for name, ours in names.items() if ours in own}


def _best_pairs(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], part: str | None) -> list[tuple[str, str]]:
    """Lists the pairs of prefixes under which most shapes agree, and then most names. The shortest pair comes first."""
    beginnings: dict[str, list[str]] = defaultdict(list)
    for name in own:
        for ours, rest in _splits(name):
            beginnings[rest].append(ours)
    of_name, of_shape = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for name, tensor in weights.items():
        for theirs, rest in _splits(name):
            for ours in beginnings[rest] if rest in beginnings and _is_under(theirs, part) else ():
                of_name[theirs, ours] += 1
                of_shape[theirs, ours] += own[ours + rest].shape == tensor.shape
    if not of_name:
        return [("", "")]
    most = max((of_shape[pair], of_name[pair]) for pair in of_name)
    best = [pair for pair in of_name if (of_shape[pair], of_name[pair]) == most]
    return sorted(best, key=lambda pair: [(prefix.count("."), prefix) for prefix in pair])


def _renamed(weights: Iterable[str], theirs: str, ours: str) -> Alignment:
    return {name: ours + name.removeprefix(theirs) for name in weights if name.startswith(theirs)}


def _is_equal(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], one: Alignment, other: Alignment) -> bool:
    """Says whether the module would get the same numbers by either, for example where a file holds them twice."""
    first, second = ({names[name]: weights[name] for name in _matched(names, own)} for names in (one, other))
    return first.keys() == second.keys() and all(
        tensor.shape == second[name].shape and bool((tensor == second[name]).all()) for name, tensor in first.items()
    )


def _is_under(prefix: str, part: str | None) -> bool:
    """Says whether a prefix, or the beginning of a name, contains the components of a part."""
    if part is None:
        return True
    return not prefix if part == OUTERMOST else f".{part}." in f".{prefix}"


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Gives every beginning of a name with its dot, and the rest. The shortest beginning comes first."""
    components = name.split(".")
    for depth in range(len(components)):
        yield "".join(f"{component}." for component in components[:depth]), ".".join(components[depth:])


def _parts(names: Iterable[str]) -> list[str]:
    """Lists the first two components of the names that have more than two, and the first one of those with two."""
    return sorted({".".join(name.split(".")[: min(2, name.count("."))]) or OUTERMOST for name in names})
