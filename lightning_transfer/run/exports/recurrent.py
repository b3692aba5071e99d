"""Has ONNX's own operator stand for the LSTM layers of a network.

Torch traces an LSTM as one step after the other, so a traced program has as many steps as its example had.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


@torch.library.custom_op("lightning_transfer::lstm", mutates_args=())
def _lstm(inputs: Tensor, weights: Tensor, recurrent: Tensor, biases: Tensor, hidden_size: int) -> Tensor:
    raise NotImplementedError("this operator is there to be traced")


@_lstm.register_fake
def _shape(inputs: Tensor, weights: Tensor, recurrent: Tensor, biases: Tensor, hidden_size: int) -> Tensor:
    return inputs.new_empty(inputs.shape[0], inputs.shape[1], hidden_size)


class OnnxLSTM(nn.Module):
    """One forward layer, with weights in the layout of ONNX. It can be traced, and not run.

    Args:
        lstm: The layer that it stands for.
    """

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.hidden_size = lstm.hidden_size
        gates = {name: _reordered(rows) for name, rows in lstm.named_parameters()}
        self.register_buffer("weights", gates["weight_ih_l0"].unsqueeze(0))
        self.register_buffer("recurrent", gates["weight_hh_l0"].unsqueeze(0))
        self.register_buffer("biases", torch.cat([gates["bias_ih_l0"], gates["bias_hh_l0"]]).unsqueeze(0))

    def forward(self, inputs: Tensor, state: None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Computes the states, float [time, batch, hidden_size]; the last ones, which nobody uses, are not right."""
        states: Tensor = _lstm(inputs, self.weights, self.recurrent, self.biases, self.hidden_size)
        return states, (states[-1:], states[-1:])


def with_onnx_layers(module: nn.Module) -> nn.Module:
    """Copies a module, with ONNX's operator for each LSTM of one layer and one direction, time first.

    Others stay as they are.
    """
    copied = copy.deepcopy(module)
    for parent in [*copied.modules()]:
        for name, child in parent.named_children():
            if isinstance(child, nn.LSTM) and _is_plain(child):
                setattr(parent, name, OnnxLSTM(child))
    return copied


def translations() -> dict[Any, Callable[..., Any]]:
    """Says, for torch's exporter, what stands for the operator in ONNX."""
    from onnxscript import opset18

    def translated(inputs, weights, recurrent, biases, hidden_size: int):  # type: ignore[no-untyped-def]
        states, _, _ = opset18.LSTM(inputs, weights, recurrent, biases, hidden_size=hidden_size)
        directions: Any = opset18.Constant(value_ints=[1])
        return opset18.Squeeze(states, directions)

    return {torch.ops.lightning_transfer.lstm.default: translated}


def _is_plain(lstm: nn.LSTM) -> bool:
    is_one = lstm.num_layers == 1 and not lstm.bidirectional
    return is_one and lstm.bias and not lstm.batch_first and not lstm.proj_size


def _reordered(rows: Tensor) -> Tensor:
    """Puts the gates in the order of ONNX: torch has input, forget, cell and output."""
    of_input, forget, cell, output = rows.detach().chunk(4)
    return torch.cat([of_input, output, forget, cell])
