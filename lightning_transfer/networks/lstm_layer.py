"""An LSTM layer in one or both directions, correct in any precision, and functions that reorder time steps."""

import torch
from torch import Tensor, nn

from lightning_transfer.networks.processor import has_bfloat16, has_bfloat16_lstm, trains_lstm_in_bfloat16

# The hidden and the cell state of one layer after a segment of text, each [1, batch, units].
LayerState = tuple[Tensor, Tensor]


class LSTMLayer(nn.Module):
    """Runs one LSTM layer over right-padded sequences, forward or in both directions.

    The backward direction is a second LSTM. It reads each sequence reversed within its own length, and its outputs are
    reversed back. On a CPU this is several times as fast as ``pack_padded_sequence`` and gives the same: padding never
    changes an output before it.

    Args:
        input_size: Features of each time step.
        hidden_size: Units of each direction.
        bidirectional: Whether there is a backward direction.
        weight_dropout: Probability of dropping a recurrent weight in training, the same for all steps of a batch
            (DropConnect as in AWD-LSTM: Merity et al., 2018).
    """

    def __init__(
        self, input_size: int, hidden_size: int, bidirectional: bool = False, weight_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.forward_direction = nn.LSTM(input_size, hidden_size)
        self.backward_direction = nn.LSTM(input_size, hidden_size) if bidirectional else None
        self.weight_dropout = weight_dropout

    def forward(
        self, inputs: Tensor, reversed_steps: Tensor | None = None, state: LayerState | None = None
    ) -> tuple[Tensor, LayerState]:
        """Computes the hidden states.

        Args:
            inputs: float [time, batch, input_size].
            reversed_steps: int64 [time * batch], see :func:`reversed_within_length`; needed for both directions.
            state: The state that the forward direction starts from; zeros if not given.

        Returns:
            The hidden states, float [time, batch, directions * hidden_size], which have no meaning at padded steps;
            and the forward direction's last state.
        """
        states, last = self._run(self.forward_direction, inputs, state)
        if self.backward_direction is None:
            return states, last
        assert reversed_steps is not None
        backward_states, _ = self._run(self.backward_direction, take_steps(inputs, reversed_steps), None)
        return torch.cat([states, take_steps(backward_states, reversed_steps)], 2), last

    def _run(self, lstm: nn.LSTM, inputs: Tensor, state: LayerState | None) -> tuple[Tensor, LayerState]:
        dtype = _dtype_to_choose(lstm, inputs)
        if dtype is not None:
            state = None if state is None else (state[0].to(dtype), state[1].to(dtype))
            with torch.autocast(inputs.device.type, enabled=False):
                states, last = self._with_own_weights(lstm, inputs.to(dtype), state)
            return states.to(inputs.dtype) if dtype == torch.float32 else states, last
        if self.training and self.weight_dropout:
            return self._with_own_weights(lstm, inputs, state)
        states, last = lstm(inputs, state)
        return states, last

    def _with_own_weights(self, lstm: nn.LSTM, inputs: Tensor, state: LayerState | None) -> tuple[Tensor, LayerState]:
        """Runs an LSTM with its weights in the precision of the inputs, and some recurrent ones dropped in training."""
        if state is None:
            zeros = inputs.new_zeros(1, inputs.shape[1], lstm.hidden_size)
            state = (zeros, zeros)
        weights: dict[str, Tensor] = {name: weight.to(inputs.dtype) for name, weight in lstm.named_parameters()}
        recurrent = weights["weight_hh_l0"]
        weights["weight_hh_l0"] = nn.functional.dropout(recurrent, self.weight_dropout, self.training)
        # This is the function behind nn.LSTM. The module itself can only use its own parameters as weights.
        states, hidden, cell = torch.lstm(inputs, state, list(weights.values()), True, 1, 0.0, True, False, False)
        return states, (hidden, cell)


def _dtype_to_choose(lstm: nn.LSTM, inputs: Tensor) -> torch.dtype | None:
    """Gives the dtype in which an LSTM has correct gradients, or None where torch's own choice has them."""
    device = inputs.device
    is_autocast = torch.is_autocast_enabled(device.type)
    if (torch.get_autocast_dtype(device.type) if is_autocast else inputs.dtype) != torch.bfloat16:
        return None
    if device.type == "cuda" and is_autocast:
        return torch.bfloat16 if has_bfloat16_lstm(device) else torch.float32
    if device.type == "cpu" and not _computes_in_bfloat16(lstm):
        return torch.float32
    return None


def _computes_in_bfloat16(lstm: nn.LSTM) -> bool:
    """Says whether torch has an LSTM in bfloat16 for this CPU, with correct gradients where they are needed."""
    return has_bfloat16() and (
        not torch.is_grad_enabled() or trains_lstm_in_bfloat16(lstm.input_size, lstm.hidden_size)
    )


def reversed_within_length(lengths: Tensor, time: int, kept: Tensor | int = 0) -> Tensor:
    """Computes the index that reverses every sequence of a padded batch, and leaves the padding in place.

    Args:
        lengths: int64 [batch].
        time: Steps of the padded batch.
        kept: Number of steps at the start of each sequence that stay in place too, int64 [batch] or one for all.

    Returns:
        int64 [time * batch], an index for :func:`take_steps`.
    """
    steps = torch.arange(time, device=lengths.device).unsqueeze(1)
    source = torch.where((steps >= kept) & (steps < lengths), lengths - 1 - steps + kept, steps)
    batch_size = lengths.shape[0]  # not len(): an export would fix it
    return (source * batch_size + torch.arange(batch_size, device=lengths.device)).flatten()


def take_steps(inputs: Tensor, source: Tensor) -> Tensor:
    """Reorders [time, batch, ...] by an index, int64 [time * batch], into its first two dimensions flattened."""
    # This takes whole rows, on a CPU nearly three times as fast as gather, which takes single numbers.
    return inputs.flatten(0, 1).index_select(0, source).view_as(inputs)
