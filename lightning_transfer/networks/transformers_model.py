"""Builds models of Hugging Face transformers from the numbers in a config.json, and names their layer groups.

Nothing that the file names is opened, fetched or run.
"""

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_transfer.errors import UserError, did_you_mean, in_one_line
from lightning_transfer.files import model_folder
from lightning_transfer.networks.layer_groups import shortest_paths
from lightning_transfer.networks.transformers_attention import attention_for

Kind = Literal["encoder", "masked", "causal"]

# Entries of a config.json that name code, kernels or files to load, or say how weights are stored.
_NOT_ABOUT_THE_NETWORK = re.compile(
    r"_.*|.*implementation|auto_map|custom_pipelines|transformers_weights|(torch_)?dtype|quantization_config"
)
# Of these, masks of the attention are in older files of decoders.
_COMPUTED = (r"(^|\.)position_ids$", r"\.inv_freq$", r"\b(attn|attention)\.(masked_)?bias$")
_NO_LIMIT = 2**31  # tokens
_OLD_NAMES = {r"\bLayerNorm\.gamma$": "LayerNorm.weight", r"\bLayerNorm\.beta$": "LayerNorm.bias"}


def read_config(name: str) -> dict[str, Any]:
    """Reads the config.json of a model.

    Args:
        name: A Hub id, or the folder of a model.

    Raises:
        UserError: If there is none, or it is not that of a model.
    """
    file = model_folder(name, ["config.json"], "model.network.name") / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"model.network.name {name!r} has no config.json that can be read: {error}") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise UserError(f"{file} names no model_type: expected the config.json of a model of transformers")
    return config


def build_model(config: Mapping[str, Any], kind: Kind, dropout: float | None = None) -> Any:
    """Builds a model with random weights in float32.

    Args:
        config: The content of a config.json: ``model_type``, and arguments of that type's config.
        kind: ``encoder`` without a head, or a language model with its own head: of ``masked`` or ``causal`` tokens.
        dropout: Probability of all dropouts, in place of those of the config.

    Raises:
        UserError: If the library has no such type or no such language model, reads two texts, or refuses a value.
    """
    import transformers

    model_type = str(config.get("model_type"))
    if model_type not in transformers.CONFIG_MAPPING:
        hint = did_you_mean(model_type, transformers.CONFIG_MAPPING.keys(), "code beside weights is never run")
        raise UserError(f"transformers has no model_type {model_type!r}: {hint}")
    try:
        typed = transformers.CONFIG_MAPPING[model_type].from_dict(_numbers(config))
        if typed.is_encoder_decoder:
            raise UserError(f"{model_type} reads one text and writes another: expected an encoder or a decoder")
        typed.use_cache = False
        if dropout is not None:
            for key, value in vars(typed).items():
                if "drop" in key and isinstance(value, float | int) and not isinstance(value, bool):
                    setattr(typed, key, float(dropout))
        return _of_class(_class_for(typed, kind), typed)
    except UserError:
        raise
    except Exception as error:  # the library raises many kinds where values do not go together
        raise UserError(f"model_type {model_type} does not take these values: {in_one_line(error):.200}") from error


def _numbers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out what is not about the network, at every level."""
    return {
        name: _numbers(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if not _NOT_ABOUT_THE_NETWORK.fullmatch(str(name))
    }


def _class_for(config: Any, kind: Kind) -> Any:
    from transformers.models.auto import modeling_auto as auto

    mapping: Any = {
        "encoder": auto.MODEL_MAPPING,
        "masked": auto.MODEL_FOR_MASKED_LM_MAPPING,
        "causal": auto.MODEL_FOR_CAUSAL_LM_MAPPING,
    }[kind]
    if type(config) not in mapping:
        raise UserError(f"transformers has no {kind} model of model_type {config.model_type}: choose another")
    found = mapping[type(config)]
    return found[0] if isinstance(found, list | tuple) else found


def _of_class(model_class: Any, config: Any) -> Any:
    # A pooler over the first token is made for a task of the pretraining. The pooling is the network's own here.
    bare = {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(model_class).parameters else {}
    return model_class._from_config(config, attn_implementation=attention_for(model_class), dtype=torch.float32, **bare)


def has_masked_model(config: Mapping[str, Any]) -> bool:
    """Says whether the library has this type of model for masked tokens: an encoder that reads in both directions.

    Args:
        config: The content of a config.json.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return config.get("model_type") in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.get("is_decoder")


def most_tokens(model: Any) -> int:
    """Returns how many tokens of a text the model has positions for."""
    positions: int = getattr(model.config, "max_position_embeddings", None) or _NO_LIMIT
    if positions < 1:
        return _NO_LIMIT
    of_tokens = model.get_input_embeddings()
    for part in model.modules():  # some types count positions from behind the padding's
        if isinstance(part, nn.Embedding) and part.num_embeddings == positions and part is not of_tokens:
            return positions if part.padding_idx is None else positions - part.padding_idx - 1
    return positions


@contextmanager
def tried_out(model: Any) -> Iterator[None]:
    """Has a model that was just built evaluate in a block without gradients. Random draws go on as if it had not."""
    was_training = model.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.eval()
            yield
    finally:
        model.train(was_training)


def transformer_layer_groups(model: Any) -> dict[str, list[str]]:
    """Names the layer groups of a model without a head: embeddings, and layer.0 to layer.n.

    The layers are the list of modules with most parameters. What runs before the first of them belongs to the
    embeddings, with all that no module's call uses. What runs later belongs to the layer before it, as a last norm
    layer does. A short text is read to find out.

    Args:
        model: A model of transformers that gives hidden states.

    Returns:
        Group name -> paths of modules and parameters, from input to output. Together they hold every parameter once.

    Raises:
        UserError: If the model has no list of layers.
    """
    lists = {path: part for path, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part)}
    if not lists:
        raise UserError(f"{type(model).__name__} has no list of layers: expected an encoder or a decoder of tokens")
    path, layers = max(lists.items(), key=lambda item: sum(parameter.numel() for parameter in item[1].parameters()))
    # A single layer that is run several times holds a list in which it is the only one.
    group_of_layer = {id(layer): f"layer.{number}" for number, layer in enumerate(layers)}
    found: dict[str, str] = {}
    current = "embeddings"

    def enter(module: nn.Module, _: Any) -> None:
        nonlocal current
        current = group_of_layer.get(id(module), current)
        for name, _parameter in module.named_parameters(recurse=False):
            found.setdefault(f"{names[id(module)]}.{name}".lstrip("."), current)

    names = {id(module): name for name, module in model.named_modules()}
    hooks = [module.register_forward_pre_hook(enter) for module in model.modules()]
    try:
        with tried_out(model):
            token_ids = torch.zeros(1, min(4, most_tokens(model)), dtype=torch.long, device=model.device)
            model(input_ids=token_ids, attention_mask=torch.ones_like(token_ids))
    finally:
        for hook in hooks:
            hook.remove()
    group_of = {}
    for name, _ in model.named_parameters():
        inside = name.removeprefix(f"{path}.") if name.startswith(f"{path}.") else None
        layer = f"layer.{inside.partition('.')[0]}" if inside else None
        group_of[name] = layer or found.get(name, "embeddings")
    order = ["embeddings", *group_of_layer.values()]
    return shortest_paths(dict(sorted(group_of.items(), key=lambda item: order.index(item[1]))))


def adapt_weights(network: nn.Module, model: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gives tensors of the library's older files their names of today, and leaves out what is not the model's.

    These are poolers and heads for other tasks, what is computed anew, and what the library itself ignores in files.

    Args:
        network: The network that holds the model.
        model: A model of transformers.
        weights: The tensors of a source by name.
    """
    base = model.base_model
    own = {*network.state_dict(), *model.state_dict(), *base.state_dict()}
    parts = {name for module in (base, model) for name, part in module.named_children() if part is not base}
    ignored = re.compile("|".join([*(model._keys_to_ignore_on_load_unexpected or ()), *_COMPUTED]))
    adapted = {}
    for name, tensor in weights.items():
        for old, new in _OLD_NAMES.items():
            name = re.sub(old, new, name)
        components = name.split(".")
        is_own = not own.isdisjoint(accumulate(reversed(components), lambda rest, part: f"{part}.{rest}"))
        if is_own or not (parts.isdisjoint(components) or ignored.search(name)):
            adapted[name] = tensor
    return adapted
