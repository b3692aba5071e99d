"""Starting weights: from a file, torchvision or the Hub into a network, with every tensor accounted for.

Weights only: nothing in a file is ever executed, and neither optimizer nor progress comes along.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import group_patterns, resolve_layer_groups, some_of
from lightning_transfer.transfer.sources import Weights, plain_name, read_source
from lightning_transfer.transfer.vocabularies import bound_tensors, move_rows, token_tensors


@dataclass(frozen=True)
class WeightsReport:
    """What became of each tensor.

    Attributes:
        source: Where the weights came from.
        loaded: Tensors of the module that were loaded.
        made_anew: Tensors of the module that keep their fresh values, each with the reason.
        left_over: Tensors of the source that the module has no place for.
        by_token: Loaded tensors whose rows were moved from one vocabulary to another, each with how many.
    """

    source: str
    loaded: list[str]
    made_anew: dict[str, str]
    left_over: list[str]
    by_token: dict[str, str]

    def __str__(self) -> str:
        """Say it in a few lines."""
        lines = [f"starting weights: {len(self.loaded)} tensors loaded from {self.source}"]
        lines += [f"  by token    {name} ({reason})" for name, reason in self.by_token.items()]
        lines += [f"  made anew   {name} ({reason})" for name, reason in self.made_anew.items()]
        lines += [f"  left over   {name}" for name in self.left_over]
        return "\n".join(lines)


def load_starting_weights(
    module: nn.Module,
    source: str | os.PathLike[str],
    allow: Sequence[str] = (),
    vocabulary: Sequence[str] | None = None,
) -> WeightsReport:
    """Load weights into a module by name, wherever the same network sits on either side.

    The source's names and the module's are aligned by the prefixes that match most of them, so a bare network's
    weights fit into a LightningModule that holds the network, and the other way round. Tensors of the head, the last
    layer group, are made anew where their shapes differ or the source lacks them: another number of classes or
    another kind of head. Any other difference is an error, unless a pattern allows it. Where the vocabularies of source
    and module are known and differ, the rows of embeddings are moved by token,
    and layers that are bound to a vocabulary are made anew.

    Args:
        module: What to load into, in place.
        source: A file (a Lightning checkpoint, a saved state dict of torch, or ``.safetensors``), the name of
            torchvision weights (``ResNet18_Weights.IMAGENET1K_V1``), or a file on the Hub
            (``hf://owner/repository/file``).
        allow: Glob patterns of tensor names that may be made anew or left over.
        vocabulary: The tokens of the module's data in the order of their ids, if it reads text.

    Returns:
        What became of each tensor.

    Raises:
        UserError: For a source that is missing, damaged, unsafe or of another architecture. The module is unchanged.
    """
    # A module's extra state, which is any object, stays as it is.
    state = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    own = {plain_name(name): value for name, value in state.items()}
    source = os.fspath(source)
    weights, source_vocabulary = read_source(source)
    found, outside = _align(weights, own)
    by_token, bound = {}, set[str]()
    if vocabulary is not None and source_vocabulary is not None and list(vocabulary) != source_vocabulary:
        bound = {plain_name(name) for name in bound_tensors(module)}
        tokens = {plain_name(name) for name in token_tensors(module, len(vocabulary))}
        by_token = _move_tokens(found, tokens - bound, source_vocabulary, vocabulary)
    head = _head(module)
    loaded, made_anew, problems = [], {}, []
    for name, tensor in own.items():
        if name in bound:
            made_anew[name] = "of another vocabulary"
            continue
        if name in found and found[name].shape == tensor.shape:
            loaded.append(name)
            continue
        reason = f"{_shape(tensor)}, {_shape(found[name]) if name in found else 'missing'} in the source"
        made_anew[name] = reason
        if not _is_allowed(name, [*head, *allow]):
            problems.append(f"{name} is {reason}")
    left_over = sorted([*(name for name in found if name not in own), *outside])
    for name in left_over:
        # A head of another kind leaves tensors over under the same path.
        if name not in outside and not _is_allowed(name, [*head, *allow]):
            problems.append(f"{name} is in the source only")
    if not loaded or problems:
        raise UserError(
            f"the weights of {source} do not fit {type(module).__name__}: {some_of(problems, limit=4)};"
            " choose the same architecture, or name what may differ in init_allow (allow in Python)"
        )
    names = {plain_name(name): name for name in state}
    module.load_state_dict({names[name]: found[name] for name in loaded}, strict=False)
    return WeightsReport(source, loaded, made_anew, left_over, by_token)


def _move_tokens(found: Weights, tensors: set[str], source: list[str], target: Sequence[str]) -> dict[str, str]:
    """Move the rows of embeddings, in place; say of each how many were found."""
    shared = len(set(source) & set(target))
    counts = f"{shared:,} of {len(target):,} tokens; {len(target) - shared:,} new ones start from the mean"
    names = [name for name in tensors & found.keys() if len(found[name]) == len(source)]
    for name in names:
        found[name] = move_rows(found[name], source, target)
    return dict.fromkeys(names, counts)


def _align(weights: Weights, own: Mapping[str, Tensor]) -> tuple[Weights, list[str]]:
    """Rename the source's tensors to the module's names; also return those outside the prefix that matched."""
    pairs = [(theirs, ours) for theirs in _prefixes(weights) for ours in _prefixes(own)]

    def matches(pair: tuple[str, str]) -> int:
        theirs, ours = pair
        return sum(ours + name.removeprefix(theirs) in own for name in weights if name.startswith(theirs))

    theirs, ours = max(pairs, key=matches)  # the first, with the shortest prefixes, among equals
    found = {ours + name.removeprefix(theirs): value for name, value in weights.items() if name.startswith(theirs)}
    return found, [name for name in weights if not name.startswith(theirs)]


def _prefixes(names: Mapping[str, Tensor]) -> list[str]:
    """List the beginnings of the names, up to two components, the shortest first."""
    parts = [name.split(".") for name in names]
    found = {".".join(path[:depth]) + "." for path in parts for depth in (1, 2) if len(path) > depth}
    return ["", *sorted(found, key=lambda prefix: (prefix.count("."), prefix))]


def _head(module: nn.Module) -> list[str]:
    """Return patterns of the last layer group's tensors, with its buffers; none where the module names no groups."""
    layer_groups = getattr(module, "layer_groups", None)
    if not layer_groups:
        return []
    group = list(resolve_layer_groups(module, layer_groups, rest="frozen").values())[-2]
    return [*map(plain_name, group.parameters), *(f"{path}.*" for path in group_patterns(layer_groups)[group.name])]


def _is_allowed(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a scalar"
