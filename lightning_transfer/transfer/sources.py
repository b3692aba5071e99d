"""Reads starting weights from files, folders, torchvision and the Hub. It reads tensors alone, and executes nothing."""

import json
import pickle
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_transfer.errors import UserError, did_you_mean, require_library
from lightning_transfer.files import in_mirror, is_hub_id, model_folder, named_in, read_json, without_waiting_for_hub
from lightning_transfer.transfer.damage import damage_of

HUB_PREFIX = "hf://"
PART_MARK = "::"
TIMM_PREFIX = "timm/"  # timm's networks are under this name on the Hub
_OF_A_MODEL = ("model.safetensors", "model-*-of-*.safetensors", "tokenizer.json")  # whole, or in parts
_PARTS = re.compile(r"model-\d+-of-(?P<all>\d+)\.safetensors")
_SUFFIXES = frozenset({".bin", ".ckpt", ".pkl", ".pt", ".pth", ".safetensors", ".tar"})
_DEEPEST = 6  # levels of nesting that are searched
# Torch puts these into the names of tensors where it compiles, shards or recomputes a part.
_WRAPPERS = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
Weights = dict[str, Tensor]


class Source(NamedTuple):
    """Holds the content of a source of weights.

    Attributes:
        weights: The tensors by their full names, with the containers in front: ``model.conv1.weight``.
        vocabulary: The tokens of the data in the order of their ids; None where the source has no vocabulary.
        containers: The container of each tensor by the tensor's name, such as ``model.``.
        class_names: The names of the classes in the order of the head's rows, or those of each task by its name; None
            where the source has none.
    """

    weights: Weights
    vocabulary: list[str] | None
    containers: dict[str, str]
    class_names: list[str] | dict[str, list[str]] | None = None


def checkpoint_of(run: Path) -> Path:
    """Chooses the checkpoint of a finished run: its best, or its last where nothing was held out to find the best.

    Args:
        run: Folder of the run, which holds either.

    Raises:
        UserError: If the record names a best checkpoint that is not there.
    """
    folder, record = run / "checkpoints", run / "results.json"
    best, last = folder / "best.ckpt", folder / "last.ckpt"
    if best.exists() or not last.exists():
        return best
    recorded = read_json(record).get("best_checkpoint") if record.exists() else None
    if recorded is None:
        return last
    if (named := named_in(folder, recorded)) is None:
        raise UserError(f"{record} names {recorded} as the best checkpoint, which is not in {folder}: put it there")
    return named


def split_part(source: str) -> tuple[str, str | None]:
    """Splits a source into the place of the weights, and the part that is named after it; None where none is."""
    holder, mark, part = source.rpartition(PART_MARK)
    return (holder, part.strip(".") or ".") if mark and not Path(source).exists() else (source, None)


def read_source(source: str) -> Source:
    """Reads the tensors of a source by name, and its vocabulary.

    Args:
        source: A source as :func:`~lightning_transfer.transfer.weights.load_starting_weights` takes it.

    Raises:
        UserError: If the source is missing, damaged or unsafe.
    """
    if source.startswith(HUB_PREFIX):
        return _read_file(_download(source))
    if "_Weights." in source and not Path(source).exists():
        return _read_torchvision(source)
    file = Path(source)
    if file.is_file():
        return _read_file(file)
    if file.is_dir() or ("/" in source and is_hub_id(source) and file.suffix not in _SUFFIXES):
        return _read_model(source)
    raise UserError(
        f"starting weights {source!r} are not a file: give a checkpoint, a folder with model.safetensors, the Hub id of"
        f" a model such as {TIMM_PREFIX}resnet18, a name of torchvision weights such as"
        f" ResNet18_Weights.IMAGENET1K_V1, or {HUB_PREFIX}owner/repository/file"
    )


def _read_model(source: str) -> Source:
    """Reads a model in the layout of the Hub, of timm or transformers for instance, and its tokenizer's vocabulary."""
    folder = model_folder(_whole_name(source), _OF_A_MODEL, "starting weights")
    files = [file for pattern in _OF_A_MODEL[:2] for file in sorted(folder.glob(pattern))]
    if not files:
        raise UserError(
            f"{source} has no model.safetensors: expected weights saved by save_pretrained, or give a file of weights"
        )
    if (parts := _PARTS.fullmatch(files[-1].name)) and len(files) != int(parts["all"]):
        raise UserError(
            f"{source} has {len(files)} of the {int(parts['all'])} parts of its weights: fetch or copy the others"
        )
    read = [_read_tensors(file) for file in files]
    weights = {name: tensor for part in read for name, tensor in part.weights.items()}
    containers = {name: container for part in read for name, container in part.containers.items()}
    return Source(weights, _tokens_beside(files[0]), containers)


def _whole_name(source: str) -> str:
    """Completes the name of a network of timm by that of its usual weights: ``timm/resnet18.a1_in1k``."""
    network = source.removeprefix(TIMM_PREFIX)
    if network == source or "." in network or in_mirror(source) is not None or Path(source).is_dir():
        return source
    require_library("timm", source)
    import timm

    config = timm.get_pretrained_cfg(network)
    if config is None or not config.hf_hub_id:
        hint = did_you_mean(network, timm.list_models(pretrained=True), "see timm.list_pretrained()")
        raise UserError(f"timm has no weights {network!r}: {hint}")
    return str(config.hf_hub_id)


def _read_file(file: Path) -> Source:
    source = _read_tensors(file)
    return source if source.vocabulary is not None else source._replace(vocabulary=_tokens_beside(file))


def _tokens_beside(file: Path) -> list[str] | None:
    """Reads the tokens of the tokenizer in a file's folder, as a model in the layout of the Hub has it."""
    tokenizer = file.with_name("tokenizer.json")
    return _tokens(tokenizer.read_text(encoding="utf-8")) if tokenizer.exists() else None


def _read_tensors(file: Path) -> Source:
    if file.is_file() and (damage := damage_of(file)) is not None:
        raise UserError(f"{file} is damaged: it {damage}; fetch or copy it again")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(file)
        else:
            # Training scripts save their arguments in a Namespace beside the weights. It holds nothing but values.
            with torch.serialization.safe_globals([Namespace]):
                content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file} is damaged, or holds more than weights and was not opened: save a state_dict of tensors alone"
        ) from error
    except Exception as error:  # torch and safetensors raise many kinds for a damaged file
        raise UserError(f"{file} is damaged or no file of weights: {_first_line(error)}") from error
    return _source(file, content)


def _source(file: Path | str, content: Any) -> Source:
    vocabulary = class_names = None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        vocabulary, class_names = _vocabulary(content), _class_names(content)
        if "pytorch-lightning_version" in content:  # its state_dict is the model, and callbacks may save other tensors
            content = content["state_dict"]
    found = [(plain_name(name), container, value) for name, container, value in _tensors(content)]
    if not found:
        raise UserError(f"{file} holds no tensors by name: expected a checkpoint or a state_dict")
    weights = {name: value for name, _, value in found}
    return Source(weights, vocabulary, {name: container for name, container, _ in found}, class_names)


def _tensors(content: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, str, Tensor]]:
    """Gives the tensors that have a name, however nested. An optimizer's state has numbers in place of names."""
    is_named = isinstance(content, Mapping)
    entries = content.items() if is_named else enumerate(content if isinstance(content, list | tuple) else ())
    for key, value in entries:
        if isinstance(value, Tensor) and isinstance(key, str):
            yield f"{path}{key}", path, value
        elif isinstance(value, Mapping | list | tuple) and isinstance(key, str) == is_named and depth < _DEEPEST:
            yield from _tensors(value, f"{path}{key}.", depth + 1)


def plain_name(name: str) -> str:
    """Returns a tensor's name without the parts that torch adds where it wraps a module."""
    return _WRAPPERS.sub("", name)


def _first_line(error: Exception) -> str:
    """Describes an error in one line. Some errors, such as that of an empty file, have no words, only a kind."""
    return (str(error) or type(error).__name__).splitlines()[0]


def _vocabulary(checkpoint: Mapping[str, Any]) -> list[str] | None:
    """Finds the vocabulary in a checkpoint of this project, whose data module saves its tokenizer."""
    tokenizer = _of_data(checkpoint, "tokenizer", str)
    return None if tokenizer is None else _tokens(tokenizer)


def _class_names(checkpoint: Mapping[str, Any]) -> Any:
    """Finds the names of the classes in a checkpoint of this project, by task where it has several."""
    if (tasks := _of_data(checkpoint, "tasks", dict)) is None:
        return _of_data(checkpoint, "class_names", list)
    return {task: names for task, state in tasks.items() if isinstance(names := state.get("class_names"), list)}


def _of_data(checkpoint: Mapping[str, Any], name: str, kind: type) -> Any:
    """Finds what a data module has saved under a name in a checkpoint; None where none has."""
    states = [state for state in checkpoint.values() if isinstance(state, Mapping)]
    return next((state[name] for state in states if isinstance(state.get(name), kind)), None)


def _tokens(tokenizer: str) -> list[str]:
    """Lists the tokens of a tokenizer in the order of their ids. Its library would end the process for some files."""
    try:
        content = json.loads(tokenizer)
        vocabulary = content["model"]["vocab"]
        listed = vocabulary if isinstance(vocabulary, dict) else {entry[0]: i for i, entry in enumerate(vocabulary)}
        ids = {**listed, **{token["content"]: token["id"] for token in content.get("added_tokens") or []}}
        return sorted(ids, key=ids.__getitem__)
    except Exception as error:  # any, as any of its parts may be of another type
        raise UserError(f"the tokenizer beside the starting weights is none: {_first_line(error)}") from error


def _read_torchvision(name: str) -> Source:
    from torchvision import models

    try:
        weights = models.get_weight(name)
    except (KeyError, ValueError) as error:
        known = [str(entry) for model in models.list_models() for entry in models.get_model_weights(model)]
        hint = did_you_mean(name, known, "see torchvision.models")
        raise UserError(f"torchvision has no weights {name!r}: {hint}") from error
    kept = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    if kept.is_file():
        return _read_file(kept)
    try:
        state: Weights = weights.get_state_dict(check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{name} cannot be downloaded ({error}): fetch {weights.url} elsewhere and give the file instead"
        ) from error
    return _source(name, state)


def _download(source: str) -> Path:
    from huggingface_hub import hf_hub_download

    owner, _, rest = source.removeprefix(HUB_PREFIX).partition("/")
    repository, _, file = rest.partition("/")
    if not file:
        raise UserError(f"{source!r} names no file: expected {HUB_PREFIX}owner/repository/file")
    try:
        with without_waiting_for_hub():
            return Path(hf_hub_download(f"{owner}/{repository}", file))
    except (OSError, ValueError) as error:
        raise UserError(f"{source} cannot be downloaded: {_first_line(error)}") from error
