"""Chooses parameters by name or by kind, for ways of fine-tuning that train a part of every layer."""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import LayerGroup, some_of


def keep_only(patterns: Sequence[str], module: nn.Module, groups: Mapping[str, LayerGroup], head: LayerGroup) -> None:
    """Sets aside the parameters that never train, in place.

    Args:
        patterns: Which parameters may train: ``norm`` for those of norm layers, ``bias`` for biases, or glob patterns
            of names in the module. Their ``*`` crosses dots.
        module: The module.
        groups: Its layer groups.
        head: The group whose parameters train whole, also those that it shares with other groups.

    Raises:
        UserError: If a pattern is the name of no parameter, or nothing below the head may train.
    """
    chosen = _choose(patterns, module)
    whole = {id(parameter) for parameter in head.parameters.values()}
    for group in groups.values():
        group.frozen = {name: p for name, p in group.parameters.items() if id(p) not in chosen | whole}
        group.parameters = {name: p for name, p in group.parameters.items() if name not in group.frozen}
    trained = [parameter for group in groups.values() for parameter in group.parameters.values()]
    if all(id(parameter) in whole for parameter in trained):
        raise UserError(
            f"parameters is {', '.join(patterns) or 'empty'}: below the head there is nothing of it to train; choose"
            " others, or the schedule linear_probe"
        )


def _choose(patterns: Sequence[str], module: nn.Module) -> set[int]:
    names = {name: id(parameter) for name, parameter in module.named_parameters(remove_duplicate=False)}
    chosen: set[int] = set()
    for pattern in patterns:
        if pattern == "norm":  # a network may have none, so that one strategy suits every network
            chosen |= {id(parameter) for parameter in _of_norm_layers(module)}
        elif pattern == "bias":
            chosen |= {number for name, number in names.items() if _is_bias(name)}
        elif found := {number for name, number in names.items() if fnmatchcase(name, pattern)}:
            chosen |= found
        else:
            raise UserError(
                f"parameters has {pattern!r}, which is the name of none: expected norm, bias or a pattern of names"
                f" such as {some_of(names, limit=4)}"
            )
    return chosen


def _of_norm_layers(module: nn.Module) -> Iterator[nn.Parameter]:
    """Lists the parameters of norm layers of any library: those of torch, and what is called so, as LlamaRMSNorm."""
    for part in module.modules():
        is_called_norm = any("norm" in kind.__name__.lower() for kind in type(part).__mro__)
        if is_called_norm and not any(True for child in part.children() for _ in child.parameters()):
            yield from part.parameters(recurse=False)


def _is_bias(name: str) -> bool:
    """Says whether a parameter is a bias: ``bias``, ``in_proj_bias`` of attention, ``bias_hh_l0`` of an LSTM."""
    words = name.rpartition(".")[2].split("_")
    return "bias" in (words[0], words[-1])
