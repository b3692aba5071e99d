"""Measures memory and norms for the scalars of a training, and arranges the charts that show them."""

import math
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

# Layout of the Custom Scalars tab: section -> chart -> regular expressions of tags.
LAYOUT = {
    "Learning": {
        "loss": ["Multiline", ["^train/loss$", "^val/loss$"]],
        "accuracy": ["Multiline", ["^train/accuracy$", "^val/accuracy$"]],
    },
    "Layer groups": {
        "learning rate (0 while frozen)": ["Multiline", ["^lr/"]],
        "gradient norm, before clipping": ["Multiline", ["^gradient_norm/"]],
        "update of the weights / weights": ["Multiline", ["^update_ratio/"]],
        "share of parameters that train": ["Multiline", ["^phase/trainable_share$"]],
    },
    "Speed": {
        "examples per second": ["Multiline", ["^speed/examples_per_second$"]],
        "seconds per step": ["Multiline", ["^speed/step_seconds$"]],
        "share of the time between steps": ["Multiline", ["^speed/data_wait_share$"]],
        "peak memory in GiB": ["Multiline", ["^speed/peak_memory_gib$"]],
    },
}
_MOST_VALUES = 65_536  # the update ratio takes so many values of each tensor, evenly spaced, to bound its memory


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
