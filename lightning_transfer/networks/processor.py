"""Checks which number formats the processors of this machine compute correctly."""

import warnings
from functools import lru_cache

import torch
from torch import Tensor, nn


def has_bfloat16() -> bool:
    """Says whether this CPU may have instructions for bfloat16."""
    return torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")


@lru_cache
def has_bfloat16_lstm(device: torch.device) -> bool:
    """Says whether cuDNN has an LSTM in bfloat16 for a GPU, as it has from version 9.13 and Ampere on.

    Under autocast in bfloat16, torch lets cuDNN compute LSTMs in float16. If the loss is not scaled, large gradients
    then become infinite, and small ones zero.
    """
    version = torch.backends.cudnn.version() or 0  # type: ignore[no-untyped-call]
    return version >= 91300 and torch.cuda.get_device_capability(device) >= (8, 0)


@lru_cache
def trains_lstm_in_bfloat16(input_size: int, hidden_size: int) -> bool:
    """Says whether this CPU computes an LSTM's gradients in bfloat16 as in float32, apart from rounding.

    Each size is tried once, on two steps. With AMX, torch 2.14's LSTM passes wrong gradients to the layers below it,
    without an error, from 1,024 units on in multiples of 32.
    """
    if not has_bfloat16():
        return False
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        lstm = nn.LSTM(input_size, hidden_size)
        inputs = torch.randn(2, 8, input_size)
        exact, rounded = (_input_gradient(lstm, inputs, autocast) for autocast in (False, True))
    is_right = bool((rounded - exact).norm() < 0.1 * exact.norm())
    if not is_right:
        warnings.warn(
            f"this CPU computes wrong gradients of an LSTM of {hidden_size} units in bfloat16: it trains in float32"
            " instead. A size below 1,024 is likely to be correct, and much faster",
            stacklevel=2,
        )
    return is_right


def _input_gradient(lstm: nn.LSTM, inputs: Tensor, autocast: bool) -> Tensor:
    inputs = inputs.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        states, _ = lstm(inputs)
    [gradient] = torch.autograd.grad(states.float().sum(), inputs)
    return gradient
