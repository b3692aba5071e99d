"""Builds any classification network of torchvision by its name, with layer groups from stem to head."""

import math
import re
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

from torch import Tensor, nn
from torchvision import models

from lightning_transfer.errors import UserError, did_you_mean

_STAGES_BEHIND_STEM = {
    r"features\.1": "stage1",
    r"features\.[23]": "stage2",
    r"features\.[45]": "stage3",
    r"features\.[67]": "stage4",
}

# The families that name their stages: a pattern for the paths of modules -> the layer group.
_NAMED_STAGES = {
    "ConvNeXt": {r"features\.0": "stem"} | _STAGES_BEHIND_STEM,
    "DenseNet": {
        r"features\.(conv|norm)0": "stem",
        r"features\.(?:denseblock|transition)(\d)": r"block\1",
        r"features\.norm5": "block4",
        "classifier": "head",
    },
    "GoogLeNet": {r"conv\d": "stem", r"(inception\d)\w": r"\1", "fc": "head"},
    "Inception3": {r"Conv2d_\w+": "stem", r"Mixed_(\d)\w": r"mixed\1", "fc": "head"},
    "MaxVit": {"stem": "stem"} | {rf"blocks\.{stage}": f"stage{stage + 1}" for stage in range(4)},
    "RegNet": {"stem": "stem", r"trunk_output\.block(\d)": r"stage\1", "fc": "head"},
    "ResNet": {"conv1|bn1": "stem", r"(layer\d)": r"\1", "fc": "head"},
    "ShuffleNetV2": {"conv1": "stem", r"(stage\d)": r"\1", "conv5": "stage4", "fc": "head"},
    "SwinTransformer": {r"features\.0": "embedding"} | _STAGES_BEHIND_STEM | {"norm|head": "head"},
    "VisionTransformer": {r"class_token|conv_proj|encoder\.pos_embedding": "embedding", r"encoder\.ln|heads": "head"},
}

# The families that are one sequence of layers -> the sequence's name. They are cut where the resolution falls.
_SEQUENCES = {
    **dict.fromkeys(("AlexNet", "EfficientNet", "MobileNetV2", "MobileNetV3", "SqueezeNet", "VGG"), "features"),
    "MNASNet": "layers",
}

# The families whose stem has no variant for small images -> the reason.
_NO_SMALL_STEM = {
    "Inception3": "its unpadded convolutions need images of at least 75 x 75 pixels",
    "MaxVit": "its windows take images of 224 x 224 pixels or a multiple",
    "SwinTransformer": "it embeds patches, and takes small images as they are",
    "VGG": "it begins with stride 1 already, and takes images of 32 x 32 pixels as they are",
    "VisionTransformer": "it embeds patches, of smaller images with model_arguments image_size",
}

# The smallest height and width, in pixels, that the layers do not shrink to nothing. Families with a limit of a few
# pixels are not listed. Source: measured.
_SMALLEST_IMAGE = {
    "AlexNet": 63,
    "ConvNeXt": 32,
    "DenseNet": 29,
    "GoogLeNet": 15,
    "Inception3": 75,
    "SqueezeNet": 21,
    "VGG": 32,
}

# GoogLeNet and Inception v3 transform their input as torchvision's weights expect. Their auxiliary heads are off,
# because only their own loss would use them.
_INCEPTION_ARGUMENTS = {"aux_logits": False, "transform_input": True, "init_weights": True}


class TorchvisionNetwork(nn.Module):
    """Builds any classification network of torchvision with fresh weights; ``init_from`` loads pretrained ones.

    GoogLeNet and Inception v3 have no auxiliary heads here.

    Args:
        num_classes: Number of outputs; follows from the data on the command line.
        name: Name of the network in torchvision, for example resnet18, convnext_tiny or vit_b_16.
        small_images: Whether to keep the full resolution in the stem, for images of about 32 x 32 pixels: its first
            convolution becomes 3 x 3 with stride 1, and its max pooling is left out.
        model_arguments: More arguments of torchvision's own class, for example ``dropout``,
            ``stochastic_depth_prob`` or ``image_size`` of a vision transformer.

    Attributes:
        model: torchvision's module.
        layer_groups: The layers to freeze and unfreeze together, from input to head: group name -> paths.

    Raises:
        UserError: For a name or an argument that torchvision does not have, and for ``small_images`` with a family
            that has no such stem.

    Source:
        The stem for small images: He et al., Deep Residual Learning for Image Recognition, 2016, section 4.2.
    """

    def __init__(
        self,
        num_classes: int,
        name: str,
        small_images: bool = False,
        model_arguments: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if num_classes is None or num_classes < 1:
            raise UserError(f"num_classes is {num_classes}: expected at least 1")
        self.name = name
        arguments = model_arguments or {}
        self.model = _build(name, num_classes, arguments)
        self.layer_groups = {
            group: [f"model.{path}" for path in paths] for group, paths in torchvision_layer_groups(self.model).items()
        }
        family = type(self.model).__name__
        self._image_sizes: tuple[int, float] = (1 if small_images else _SMALLEST_IMAGE.get(family, 1), math.inf)
        if family == "VisionTransformer":  # it has one position embedding for each patch
            self._image_sizes = (arguments.get("image_size", 224),) * 2
        elif family == "MaxVit":  # its windows are cut for one size
            self._image_sizes = (arguments.get("input_size", (224, 224))[0],) * 2
        if small_images:
            _keep_resolution(self.model, name)

    def forward(self, images: Tensor) -> Tensor:
        """Computes the logits.

        Args:
            images: float [batch, 3, height, width].

        Returns:
            float [batch, num_classes].

        Raises:
            UserError: For images of a size that the network cannot take.
        """
        (height, width), (smallest, largest) = images.shape[-2:], self._image_sizes
        if min(height, width) < smallest or max(height, width) > largest:
            expected = f"{'exactly' if smallest == largest else 'at least'} {smallest} x {smallest}"
            raise UserError(
                f"{self.name} takes images of {expected} pixels, not {height} x {width}: set data.image_size"
            )
        logits: Tensor = self.model(images)
        return logits


def torchvision_layer_groups(model: nn.Module) -> dict[str, list[str]]:
    """Names the layer groups of a classification model of torchvision.

    A family that names its stages keeps them. A family that is one sequence of layers is cut where the resolution
    falls. The blocks of a vision transformer are cut into quarters. A last convolution belongs to the last stage.
    The head is the part that another number of classes replaces, with the norm layer right before it. In a classifier
    of several layers only the last is the head; the others are ``hidden1`` and so on.

    Args:
        model: An instance of one of torchvision's classes.

    Returns:
        Group name -> paths of modules and parameters, from input to head. Together they hold every parameter once.

    Raises:
        UserError: If no rule covers the class, or a parameter.
    """
    rules = _rules(model)
    groups: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        path, group = _path_and_group(name, rules)
        if path not in groups.setdefault(group, []):
            groups[group].append(path)
    return groups


def _path_and_group(name: str, rules: dict[str, str]) -> tuple[str, str]:
    """Returns the shortest prefix of a parameter's name that a pattern matches, and its group."""
    for path in accumulate(name.split("."), "{}.{}".format):
        for pattern, group in rules.items():
            if match := re.fullmatch(pattern, path):
                return path, match.expand(group)
    raise UserError(f"no layer group takes {name!r}: leave out the model_arguments that add it")


def _rules(model: nn.Module) -> dict[str, str]:
    """Returns pattern of paths -> the layer group of the paths that it matches."""
    family = type(model).__name__
    if family in _SEQUENCES:
        container = _SEQUENCES[family]
        rules = _by_place(container, _stages(model.get_submodule(container).children()))
    elif family in _NAMED_STAGES:
        rules = dict(_NAMED_STAGES[family])
    else:
        known = ", ".join(sorted([*_NAMED_STAGES, *_SEQUENCES]))
        raise UserError(f"no layer groups are known for {family}: expected one of {known}")
    if family == "VisionTransformer":
        blocks = [name for name, _ in model.get_submodule("encoder.layers").named_children()]
        rules |= {rf"encoder\.layers\.{name}": f"stage{1 + 4 * n // len(blocks)}" for n, name in enumerate(blocks)}
    if isinstance(classifier := getattr(model, "classifier", None), nn.Sequential):
        rules |= _by_place("classifier", _hidden_and_head(classifier))
    return rules


def _by_place(container: str, names: Iterable[str]) -> dict[str, str]:
    return {rf"{container}\.{place}": name for place, name in enumerate(names)}


def _stages(layers: Iterable[nn.Module]) -> Iterable[str]:
    """Names the stage of each layer. A stage begins at each layer but the first that has a stride above 1."""
    stage = 0
    for place, layer in enumerate(layers):
        strides = [part.stride for part in layer.modules() if isinstance(part, nn.Conv2d | nn.MaxPool2d)]
        stage += place > 0 and any(stride not in (1, (1, 1)) for stride in strides)
        yield f"stage{stage}" if stage else "stem"


def _hidden_and_head(classifier: nn.Sequential) -> Iterable[str]:
    """Names the group of each layer of a classifier. Each group ends with a layer of weights; the last is the head."""
    weighted = [place for place, layer in enumerate(classifier) if isinstance(layer, nn.Linear | nn.Conv2d)]
    for place in range(len(classifier)):
        before = sum(other < place for other in weighted)
        yield f"hidden{before + 1}" if before < len(weighted) - 1 else "head"


def _build(name: str, num_classes: int, model_arguments: dict[str, Any]) -> nn.Module:
    known = models.list_models(module=models)
    if name not in known:
        hint = did_you_mean(name, known, f"expected one of {', '.join(known)}")
        raise UserError(f"torchvision has no classification network {name!r}: {hint}")
    if reserved := sorted({"weights", "num_classes"} & set(model_arguments)):
        raise UserError(
            f"model_arguments has {reserved[0]!r}: the weights come from init_from, the classes from the data"
        )
    defaults = _INCEPTION_ARGUMENTS if name in ("googlenet", "inception_v3") else {}
    try:
        model: nn.Module = models.get_model(name, num_classes=num_classes, **defaults | model_arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"{name} does not take model_arguments {model_arguments}: {error}") from error
    return model


def _keep_resolution(model: nn.Module, name: str) -> None:
    """Replaces, in place, the first convolution by one of 3 x 3 with stride 1, and drops the first max pooling."""
    family = type(model).__name__
    if family in _NO_SMALL_STEM:
        raise UserError(f"{name} has no stem for small_images: {_NO_SMALL_STEM[family]}; leave small_images off")
    path, convolution = next((path, part) for path, part in model.named_modules() if isinstance(part, nn.Conv2d))
    if convolution.kernel_size == (3, 3):  # its pretrained weights still fit, as only the stride changes
        convolution.stride, convolution.padding = (1, 1), (1, 1)
    else:
        has_bias = convolution.bias is not None
        small = nn.Conv2d(convolution.in_channels, convolution.out_channels, 3, padding=1, bias=has_bias)
        nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
        model.set_submodule(path, small)
    pooling = next((path for path, part in model.named_modules() if isinstance(part, nn.MaxPool2d)), None)
    if pooling is not None:
        model.set_submodule(pooling, nn.Identity())
