"""Measures memory and norms for the scalars of a training, and arranges the charts that show them."""

import math
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

_STAGES = {"training": "train", "validation": "val"}
_OF_GROUPS = {
    "Learning rate, 0 while frozen": "lr",
    "Gradient norm, before clipping": "gradient_norm",
    "Update of the weights / weights": "update_ratio",
}
_SPEED = {
    "share of the parameters that train": "phase/trainable_share",
    "examples per second": "speed/examples_per_second",
    "seconds per step": "speed/step_seconds",
    "share of the time between steps": "speed/data_wait_share",
    "peak memory in GiB": "speed/peak_memory_gib",
}
_MOST_VALUES = 65_536  # the update ratio takes so many values of each tensor, evenly spaced, to bound its memory


def layout(groups: Iterable[str]) -> dict[str, dict[str, list[Any]]]:
    """Arranges the Custom Scalars tab: its sections, their charts and the regular expression of each chart's tag.

    A chart has one tag, because TensorBoard gives all lines of a run the same colour.

    Args:
        groups: Names of the layer groups, in the order of their charts.
    """
    sections = {
        "Learning": {
            f"{stage} {name}": f"{tag}/{name}" for name in ("loss", "accuracy") for stage, tag in _STAGES.items()
        },
        **{title: {name: f"{tag}/{name}" for name in groups} for title, tag in _OF_GROUPS.items()},
        "Speed": _SPEED,
    }
    return {
        title: {name: ["Multiline", [f"^{re.escape(tag)}$"]] for name, tag in charts.items()}
        for title, charts in sections.items()
    }


def peak_memory_gib(device: torch.device) -> float:
    """Returns the peak memory in GiB: of tensors on a GPU, of the whole process on a CPU, not a number on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if resource is None:
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def norm_of(tensors: Sequence[Tensor]) -> Tensor:
    """Computes the norm of tensors as if they were one vector; float32, a scalar."""
    values = [tensor.coalesce().values() if tensor.is_sparse else tensor for tensor in tensors]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(values)).float())
    return norm


def part_of(parameter: Tensor) -> Tensor:
    """Takes up to 65,536 values of a parameter, evenly spaced, as one vector."""
    flat = parameter.detach().view(-1) if parameter.is_contiguous() else parameter.detach().flatten()
    return flat[:: math.ceil(flat.numel() / _MOST_VALUES)]
