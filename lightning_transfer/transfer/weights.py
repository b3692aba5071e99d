"""Loads starting weights from a file, torchvision or the Hub into a network, and reports every tensor.

Only weights are loaded, without the optimizer or the progress of a training. Nothing in a file is ever executed.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import group_patterns, some_of
from lightning_transfer.transfer.alignment import align
from lightning_transfer.transfer.sources import PART_MARK, Weights, plain_name, read_source, split_part
from lightning_transfer.transfer.vocabularies import bound_tensors, move_rows, token_tensors


@dataclass(frozen=True)
class WeightsReport:
    """Says what happened to each tensor.

    Attributes:
        source: The source of the weights.
        loaded: Tensors of the module that were loaded.
        made_anew: Tensors of the module that keep their fresh values, each with the reason.
        left_over: Tensors of the source that the module has no place for.
        by_token: Loaded tensors whose rows were moved from one vocabulary to another, each with how many.
        by_class: Loaded tensors of the head whose rows were moved, as the source has the classes in another order.
        unchecked: Loaded embeddings of texts' tokens, where the source does not say which tokens these are.
        head: The source's tensors under the names of the module's head, whatever their shapes.
    """

    source: str
    loaded: list[str]
    made_anew: dict[str, str]
    left_over: list[str]
    by_token: dict[str, str]
    by_class: list[str]
    unchecked: list[str]
    head: Weights = field(repr=False, compare=False)

    def __str__(self) -> str:
        """Writes the report in a few lines."""
        lines = [f"starting weights: {len(self.loaded)} tensors loaded from {self.source}"]
        lines += [f"  by token    {name} ({reason})" for name, reason in self.by_token.items()]
        lines += [f"  by class    {name} (the source has the classes in another order)" for name in self.by_class]
        lines += [f"  unchecked   {name} (the source does not say which tokens it is of)" for name in self.unchecked]
        lines += [f"  made anew   {name} ({reason})" for name, reason in self.made_anew.items()]
        lines += [f"  left over   {name}" for name in self.left_over]
        return "\n".join(lines)


def load_starting_weights(
    module: nn.Module,
    source: str | os.PathLike[str],
    allow: Sequence[str] = (),
    vocabulary: Sequence[str] | None = None,
    class_names: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    rename: Sequence[tuple[str, str]] = (),
) -> WeightsReport:
    """Loads weights into a module by name, wherever the same network is in the file and in the module.

    The source's names and the module's are aligned by the prefixes under which most names and shapes agree. A bare
    network's weights fit into a LightningModule that holds the network, and the other way round. Those of a training
    script's ``{"model": ..., "epoch": 9}`` fit into either. Where two parts of a file fit equally, as a student and its
    teacher do, the source has to name one.

    The head is the last layer group. Its tensors are made anew where their shapes differ or the source lacks them. That
    is so with another number of classes or another kind of head. Any other difference is an error, unless a pattern
    allows it. Where the vocabularies of source and module are known and differ, the rows of embeddings are moved by
    token. Layers that are bound to a vocabulary are then made anew. Where the source has the same classes in another
    order, the rows of the head are moved by class.

    Args:
        module: The module, which is changed in place.
        source: A file (a Lightning checkpoint, a saved state dict of torch, or ``.safetensors``), the name of
            torchvision weights (``ResNet18_Weights.IMAGENET1K_V1``), or a file on the Hub
            (``hf://owner/repository/file``). Also a model of timm (``timm/resnet18``), or another one in the layout of
            the Hub by its id or folder, which has ``model.safetensors``. After two colons the name of a part:
            ``last.pt::teacher``.
        allow: Glob patterns of tensor names that may be made anew or left over.
        vocabulary: The tokens of the module's data in the order of their ids, if it reads text.
        class_names: The names of the classes of the module's data, in their order; those of each task by its name,
            where there are several.
        rename: Regular expressions, each with its replacement in the names of the source's tensors, applied in turn.
            Files of another implementation of a network are read in this way.

    Returns:
        A report on each tensor.

    Raises:
        UserError: If the source is missing, damaged, unsafe or of another architecture, or several of its parts fit.
            The module is then unchanged.
    """
    # A module's extra state may be any object, and stays as it is.
    state = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    own = {plain_name(name): value for name, value in state.items()}
    source = os.fspath(source)
    file, part = split_part(source)
    given, source_vocabulary, containers, source_classes = read_source(file)
    given = _renamed(given, rename)
    weights = _adapted(module, given)
    containers = {name: containers.get(name, "") for name in weights}
    names, rivals = align(weights, own, part)
    # Tensors in other containers of the file, such as an optimizer's state, do not count as left over.
    beside = {containers[name] for name, ours in names.items() if ours in own}
    found = {ours: weights[name] for name, ours in names.items() if containers[name] in beside}
    outside = [name for name in weights if name not in names and containers[name] in beside]
    by_token, bound = {}, set[str]()
    if vocabulary is not None and source_vocabulary is not None and list(vocabulary) != source_vocabulary:
        bound = {plain_name(name) for name in bound_tensors(module)}
        tokens = {plain_name(name) for name in token_tensors(module, len(vocabulary))}
        by_token = _move_tokens(found, tokens - bound, source_vocabulary, vocabulary)
        if not tokens - bound and any(isinstance(part, nn.Embedding) for part in module.modules()):
            raise UserError(
                f"{source} reads other tokens than the data, and {type(module).__name__} has no row for each of the"
                f" data's {len(vocabulary)}: set data.tokenizer to {file}, or data.vocabulary_path to its vocabulary"
            )
    head, twins = _head(module), _twins(own)
    by_class = _move_classes(found, head, source_classes, class_names)
    loaded, made_anew, problems = [], {}, []
    for name, tensor in own.items():
        if name in bound:
            made_anew[name] = "of another vocabulary"
            continue
        if any(twin in found and found[twin].shape == tensor.shape for twin in twins[name]):
            loaded.append(name)
            continue
        reason = f"{_shape(tensor)}, {_shape(found[name]) if name in found else 'missing'} in the source"
        made_anew[name] = reason
        # What the head shares with a layer below it, such as embeddings, is not the head's alone.
        if not _is_allowed(name, allow) and not all(_is_allowed(twin, head) for twin in twins[name]):
            problems.append(f"{name} is {reason}")
    kept = {id(tensor) for tensor in weights.values()}
    outside += [name for name, tensor in given.items() if name not in weights and id(tensor) not in kept]
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
    if rivals:
        raise UserError(
            f"{source} holds weights that fit equally in {some_of(rivals, limit=4)}: name the part,"
            f" as {file}{PART_MARK}{rivals[0]}"
        )
    written = {plain_name(name): name for name in state}
    module.load_state_dict({written[name]: found[name] for name in loaded if name in found}, strict=False)
    of_head = {written[name]: found[name] for name in written if name in found and _is_allowed(name, head)}
    is_unknown = vocabulary is not None and source_vocabulary is None  # of a text
    unchecked = [name for name in _embeddings(module) if name in loaded] if is_unknown else []
    return WeightsReport(source, loaded, made_anew, left_over, by_token, by_class, unchecked, of_head)


def _renamed(weights: Weights, patterns: Sequence[tuple[str, str]]) -> Weights:
    """Replaces patterns in the names of tensors, in turn."""
    try:
        for pattern, replacement in patterns:
            weights = {re.sub(pattern, replacement, name): tensor for name, tensor in weights.items()}
    except re.error as error:
        raise UserError(f"init_rename has {pattern!r}: expected a regular expression ({error})") from error
    return weights


def _adapted(module: nn.Module, weights: Weights) -> Weights:
    """Has each network bring the tensors of its library's own files into its names, where it has ``adapt_source``."""
    for part in module.modules():
        adapt: Any = getattr(part, "adapt_source", None)
        if adapt is not None:
            weights = adapt(weights)
    return weights


def _move_tokens(found: Weights, tensors: set[str], source: list[str], target: Sequence[str]) -> dict[str, str]:
    """Moves the rows of embeddings, in place. Returns for each tensor how many tokens were found."""
    shared = len(set(source) & set(target))
    counts = f"{shared:,} of {len(target):,} tokens; {len(target) - shared:,} new ones start from the mean"
    names = [name for name in tensors & found.keys() if len(found[name]) == len(source)]
    for name in names:
        found[name] = move_rows(found[name], source, target)
    return dict.fromkeys(names, counts)


def _move_classes(found: Weights, head: Sequence[str], source: Any, target: Any) -> list[str]:
    """Moves the rows of the head, in place, where the classes are the same in another order.

    Returns:
        The names of the head's tensors that were changed.
    """
    if isinstance(target, Mapping):  # several tasks
        given = source if isinstance(source, Mapping) else {}
        rows = {task: [f"*.of_task.{task}.*"] for task in target}
        return [name for task in target for name in _move_classes(found, rows[task], given.get(task), target[task])]
    if source is None or target is None or list(source) == list(target) or sorted(source) != sorted(target):
        return []
    names = [name for name, tensor in found.items() if _is_allowed(name, head) and tensor.shape[:1] == (len(source),)]
    for name in names:
        found[name] = move_rows(found[name], source, target)
    return names


def _head(module: nn.Module) -> list[str]:
    """Returns patterns of the last layer group's tensors and buffers; none where the module names no groups."""
    layer_groups = getattr(module, "layer_groups", None)
    if not layer_groups:
        return []
    paths = list(group_patterns(layer_groups).values())[-1]
    return [pattern for path in paths for pattern in (path, f"{path}.*")]


def _embeddings(module: nn.Module) -> list[str]:
    """Names the weights of the largest embeddings, those of tokens: others are of positions and the like."""
    parts = {
        f"{path}.weight".lstrip("."): part for path, part in module.named_modules() if isinstance(part, nn.Embedding)
    }
    most = max((part.num_embeddings for part in parts.values()), default=0)
    return [plain_name(name) for name, part in parts.items() if part.num_embeddings == most]


def _twins(tensors: Weights) -> dict[str, list[str]]:
    """Gives for each tensor the names that it has, as one that is tied to another has several."""
    names: dict[Any, list[str]] = {}
    keys = {name: (tensor.data_ptr() or name, tensor.shape) for name, tensor in tensors.items()}
    for name, key in keys.items():
        names.setdefault(key, []).append(name)
    return {name: names[key] for name, key in keys.items()}


def _is_allowed(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a scalar"
