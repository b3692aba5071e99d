"""What the processor of this machine can compute in."""

import torch


def has_bfloat16() -> bool:
    """Whether this CPU may have instructions for bfloat16."""
    return torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")
