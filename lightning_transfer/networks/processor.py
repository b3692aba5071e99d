"""What the processors of this machine can compute in."""

import warnings
from functools import lru_cache

import torch
from torch import Tensor, nn


def has_bfloat16() -> bool:
    """Whether this CPU may have instructions for bfloat16."""
    return torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")


@lru_cache
def has_bfloat16_lstm(device: torch.device) -> bool:
    """Whether cuDNN has an LSTM in bfloat16 for a GPU: from 9.13 and Ampere on.

    Under autocast in bfloat16 torch has cuDNN compute LSTMs in float16 all the same, where large gradients of a loss
    that is not scaled become infinite, and small ones zero.
    """
    version = torch.backends.cudnn.version() or 0  # type: ignore[no-untyped-call]
    return version >= 91300 and torch.cuda.get_device_capability(device) >= (8, 0)


@lru_cache
def trains_lstm_in_bfloat16(input_size: int, hidden_size: int) -> bool:
    """Whether an LSTM of this size has the same gradients in bfloat16 as in float32 on this CPU, but for rounding.

    Tried on two steps, once for each size. With AMX, torch 2.14's LSTM of 1,024 units and more, in multiples of 32,
    hands gradients that have nothing to do with the right ones to what lies below it, without an error.
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
            f"this CPU computes wrong gradients of an LSTM of {hidden_size} units in bfloat16: it trains in float32."
            " A size below 1,024 is likely to be right, and much faster",
            stacklevel=2,
        )
    return is_right


def _input_gradient(lstm: nn.LSTM, inputs: Tensor, autocast: bool) -> Tensor:
    inputs = inputs.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        states, _ = lstm(inputs)
    [gradient] = torch.autograd.grad(states.float().sum(), inputs)
    return gradient
