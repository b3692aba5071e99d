"""Builds any classification network of timm by its name, with layer groups from stem to head."""

import re
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor, nn

from lightning_transfer.errors import UserError, did_you_mean, require_library
from lightning_transfer.networks.layer_groups import shortest_paths

# How torch says that the sizes of an image and of weights do not go together.
_OF_SIZES = re.compile(
    r"(?i)size of tensor|sizes of tensors|kernel size|output size|shapes? .*(cannot|invalid)|padding size"
)
_MOST_STAGES = 4  # more groups than these are merged into quarters of the network


class TimmNetwork(nn.Module):
    """Builds any classification network of timm with fresh weights; ``init_from timm/NAME`` loads pretrained ones.

    Args:
        num_classes: Number of outputs; follows from the data on the command line.
        name: Name of the network in timm, for example convnext_atto or vit_tiny_patch16_224.augreg_in21k_ft_in1k.
        model_arguments: More arguments of timm's own class, for example ``drop_path_rate`` or ``img_size`` of a vision
            transformer.

    Attributes:
        model: timm's module.
        layer_groups: The layers to freeze and unfreeze together, from input to head: group name -> paths.

    Raises:
        UserError: If timm is not installed, or does not have the name or an argument.
    """

    library: ClassVar[str] = "timm"

    def __init__(self, num_classes: int, name: str, model_arguments: dict[str, Any] | None = None) -> None:
        super().__init__()
        require_library(self.library, type(self).__name__)
        if num_classes is None or num_classes < 1:
            raise UserError(f"num_classes is {num_classes}: expected at least 1")
        self.name = name
        self.model = _build(name, num_classes, model_arguments or {})
        groups = timm_layer_groups(self.model)
        self.layer_groups = {group: [f"model.{path}" for path in paths] for group, paths in groups.items()}

    def forward(self, images: Tensor) -> Tensor:
        """Computes the logits.

        Args:
            images: float [batch, 3, height, width].

        Returns:
            float [batch, num_classes].

        Raises:
            UserError: For images of a size that the network does not take.
        """
        try:
            logits: Tensor = self.model(images)
        except (AssertionError, RuntimeError) as error:  # timm's, of a network that is cut for one size, and torch's
            if isinstance(error, RuntimeError) and not _OF_SIZES.search(str(error)):
                raise
            height, width = images.shape[-2:]
            raise UserError(
                f"{self.name} does not take images of {height} x {width} pixels ({error}): set data.image_size, or"
                " img_size in model_arguments"
            ) from error
        return logits

    def adapt_source(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Brings the tensors of a file of timm into today's names and this image size, as timm's own loader does.

        Args:
            weights: The tensors of a source by name. Those of another kind of file, or of another network, come back as
                they are.
        """
        adapt = getattr(sys.modules[type(self.model).__module__], "checkpoint_filter_fn", None)
        if adapt is None:
            return weights
        for container in _containers(weights, self.model.state_dict()):
            inside = {name.removeprefix(container): name for name in weights if name.startswith(container)}
            try:
                adapted = adapt({name: weights[full] for name, full in inside.items()}, self.model)
            except Exception:  # any kind: timm expects this network's tensors
                continue
            others = {name: tensor for name, tensor in weights.items() if name not in inside.values()}
            weights = {**others, **{f"{container}{name}": tensor for name, tensor in adapted.items()}}
        return weights

    @property
    def has_several_heads(self) -> bool:
        """Whether classifiers side by side give the logits together, as where a network was distilled."""
        outputs = [part for part in _classifiers(self.model) for part in part.modules() if isinstance(part, nn.Linear)]
        return len([part for part in outputs if part.out_features == self.model.num_classes]) > 1


def _containers(weights: Iterable[str], own: Iterable[str]) -> list[str]:
    """Finds where a file holds the tensors of a network: at the top, or in containers such as ``model.``."""
    found = Counter(name.removesuffix(end) for name in weights for end in own if name.endswith(end))
    places = {place: count for place, count in found.items() if not place or place.endswith(".")}
    most = [place for place, count in places.items() if count == max(places.values())]
    return [""] if "" in most else most


def timm_layer_groups(model: Any) -> dict[str, list[str]]:
    """Names the layer groups of a classification model of timm, from its own ``group_matcher`` and classifier.

    The first of timm's groups is the stem, and the classifier alone is the head. What lies between keeps timm's stages
    where there are at most four. Otherwise it is cut into quarters by the number of blocks. A last norm layer or
    convolution belongs to the last stage.

    Args:
        model: An instance of one of timm's classes.

    Returns:
        Group name -> paths of modules and parameters, from input to head. Together they hold every parameter once.

    Raises:
        UserError: If the model has no classifier.
    """
    of_classifier = {id(parameter) for part in _classifiers(model) for parameter in part.parameters()}
    head = [name for name, parameter in model.named_parameters() if id(parameter) in of_classifier]
    if not head:
        raise UserError(f"{type(model).__name__} of timm has no classifier with weights: choose another network")
    groups = _groups_of_timm(model, head)
    stem, *blocks, last = [[name for name in group if name not in head] for group in groups]
    is_shared = len(last) < len(groups[-1])  # with the classifier: a last norm layer or convolution
    blocks = [*blocks[:-1], blocks[-1] + last] if is_shared and blocks else [*blocks, last]
    named = dict.fromkeys(stem, "stem")
    stages = min(len(blocks), _MOST_STAGES)
    for place, block in enumerate(blocks):
        named |= dict.fromkeys(block, f"stage{1 + stages * place // len(blocks)}")
    return shortest_paths(named | dict.fromkeys(head, "head"))


def _classifiers(model: Any) -> tuple[nn.Module, ...]:
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else ()
    return classifier if isinstance(classifier, tuple) else (classifier,)


def _groups_of_timm(model: Any, head: list[str]) -> list[list[str]]:
    """Lists the names of all parameters in timm's groups; by the parts of the model, where timm has none for it."""
    from timm.models import group_parameters

    try:
        groups = group_parameters(model, model.group_matcher(coarse=True))
        return [groups[place] for place in sorted(groups)]
    except (AttributeError, AssertionError):  # a few models have no matcher, or none for stages
        pass
    whole = {name.partition(".")[0] for name in head}
    parts: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        first, *rest = name.split(".")
        is_sequence = isinstance(getattr(model, first), nn.Sequential | nn.ModuleList) and first not in whole
        parts.setdefault(f"{first}.{rest[0]}" if is_sequence else first, []).append(name)
    return list(parts.values())


def _build(name: str, num_classes: int, model_arguments: dict[str, Any]) -> nn.Module:
    import timm

    if not timm.is_model(name):  # also for what timm would fetch, such as hf-hub:owner/name
        hint = did_you_mean(name.partition(".")[0], timm.list_models(), "see timm.list_models()")
        raise UserError(f"timm has no network {name!r}: {hint}")
    reserved = sorted(
        {"pretrained", "pretrained_cfg", "num_classes", "checkpoint_path", "in_chans"} & {*model_arguments}
    )
    if reserved:
        raise UserError(
            f"model_arguments has {reserved[0]!r}: the weights come from init_from, the classes from the data, and"
            " images have three channels"
        )
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes, **model_arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        network, _, tag = name.partition(".")
        if "pretrained tag" in str(error):
            expected = ", ".join(other.removeprefix(f"{network}.") for other in timm.list_pretrained(f"{network}.*"))
            raise UserError(f"timm has no weights {tag!r} of {network}: expected {expected or network}") from error
        raise UserError(f"{name} does not take model_arguments {model_arguments}: {error}") from error
    return model
