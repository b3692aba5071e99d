"""Language-model pretraining on streams of text, with the state of recurrent networks carried along."""

import time
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lightning_transfer.errors import UserError
from lightning_transfer.keywords import Keywords
from lightning_transfer.modules.optimization import OptimizationOptions, OptimizedModule
from lightning_transfer.networks.lstm_layer import LayerState
from lightning_transfer.networks.transformers_network import Transformer


class TokenBatch(Protocol):
    """What the language model needs of a batch: the next segment of each stream."""

    @property
    def token_ids(self) -> Tensor:
        """int64 [time, batch]."""

    @property
    def labels(self) -> Tensor:
        """The token after each, int64 [time * batch]."""


class LanguageModel(OptimizedModule):
    """Trains a language model on streams of text.

    Each batch is the continuation of the one before: the state after a segment is where the next one starts, without
    gradients into the past. The state is in every checkpoint, so that a resumed run goes on in the middle of a text. A
    transformer has no such state, and reads each segment by itself.

    Logs ``train/loss`` (nats a token) and ``train/tokens_per_second`` over the logging interval, and for validation the
    loss and the perplexity. Perplexities of different vocabularies cannot be compared.

    Args:
        network: The language model: LSTMLanguageModel, TransformersLanguageModel, or a module with such a ``forward``.
        activation_penalty: Weight of the mean square of the states that the head gets (AR: Merity et al., 2018).
        temporal_activation_penalty: Weight of the mean square of the difference between the states of successive steps
            (TAR: Merity et al., 2018).
    """

    def __init__(
        self,
        network: nn.Module,
        activation_penalty: float = 0.0,
        temporal_activation_penalty: float = 0.0,
        **kwargs: Keywords[OptimizationOptions],
    ) -> None:
        super().__init__(network, **kwargs)
        self.save_hyperparameters(ignore=["network", "optimizer", "lr_scheduler"])
        self.activation_penalty = activation_penalty
        self.temporal_activation_penalty = temporal_activation_penalty
        self._validation_state: list[LayerState] | None = None
        self._validation_loss = torch.zeros(2, dtype=torch.float64)  # the sum over tokens, and their number
        self._start = time.perf_counter()
        self._begin()

    def _begin(self) -> None:
        self._state: list[LayerState] | None = None
        # Since the last log: a tensor, which no step has to read; not a buffer, which gets the weights' precision.
        self._loss_sum = torch.zeros(())
        self._tokens = self._batches = 0

    def setup(self, stage: str) -> None:
        """Begins a fit without a state; a checkpoint's is loaded after this."""
        super().setup(stage)
        if stage == "fit":
            self._begin()

    def training_step(self, batch: TokenBatch, batch_idx: int) -> Tensor:
        """Computes the loss of a segment, penalties included, and logs the means at the end of a logging interval."""
        state = None if batch_idx == 0 else self._state
        losses, states, dropped, last = self.network(batch.token_ids, batch.labels, state)
        self._state = [(hidden.detach(), cell.detach()) for hidden, cell in last]
        loss: Tensor = losses.mean() if len(losses) else losses.sum()
        self._log_training(loss.detach(), len(batch.labels))
        if self.activation_penalty:
            loss = loss + self.activation_penalty * mean_square(dropped)
        if self.temporal_activation_penalty and len(states) > 1:
            loss = loss + self.temporal_activation_penalty * mean_square(states.diff(dim=0))
        return loss

    def on_train_start(self) -> None:
        """Starts the clock."""
        self._start = time.perf_counter()

    def validation_step(self, batch: TokenBatch, batch_idx: int) -> None:
        """Adds a segment to the validation loss; the streams of validation start from no state."""
        if batch_idx == 0:
            self._validation_state, self._validation_loss = None, self._validation_loss.to(self.device).zero_()
        losses, _, _, self._validation_state = self.network(batch.token_ids, batch.labels, self._validation_state)
        self._validation_loss += torch.stack([losses.double().sum(), losses.new_tensor(len(losses)).double()])

    def on_validation_epoch_end(self) -> None:
        """Logs loss and perplexity over all tokens of the hold-out."""
        total, tokens = self.trainer.strategy.reduce(self._validation_loss, reduce_op="sum")
        loss = (total / tokens).float()
        self.log_dict({"val/loss": loss, "val/perplexity": loss.exp()}, prog_bar=True, sync_dist=True)
        self._validation_state = None
        self._start = time.perf_counter()  # the rate is that of training alone
        self._tokens = 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the carried state of all streams, over all processes, and the sums since the last log."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["carried_state"] = self._state and [tuple(map(self._of_all_streams, layer)) for layer in self._state]
        sums = self.sums_of_processes(self._loss_sum.reshape(1))
        checkpoint["interval"] = {"sums": sums, "batches": self._batches}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on, in a fit, with this process's streams of the saved state, on whatever number of processes."""
        super().on_load_checkpoint(checkpoint)
        if not self.is_fitting:
            return
        share = slice(self.trainer.global_rank, None, self.trainer.world_size)
        if (saved := checkpoint.get("carried_state")) is not None:
            self._state = [(hidden[:, share].contiguous(), cell[:, share].contiguous()) for hidden, cell in saved]
        if (interval := checkpoint.get("interval")) is not None:
            self._loss_sum.fill_(*self.own_sums(interval["sums"]))
            self._batches = interval["batches"]

    def on_fit_start(self) -> None:
        """Brings the sum of the log and a loaded state to the device, and checks what the data wants predicted.

        Raises:
            UserError: For masked tokens where the network predicts the next ones, or the other way round. Also for what
                a transformer cannot do.
        """
        check_masking(self.network, self.trainer.datamodule)  # type: ignore[attr-defined]
        self._check_transformer()
        self._loss_sum = self._loss_sum.to(self.device)
        if self._state is not None:
            self._state = [(hidden.to(self.device), cell.to(self.device)) for hidden, cell in self._state]

    def _check_transformer(self) -> None:
        name, data = type(self.network).__name__, self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(self.network, Transformer):
            return
        if strength := self.temporal_activation_penalty:
            raise UserError(
                f"model.temporal_activation_penalty is {strength}: expected 0 with {name}, whose states are not carried"
                " from token to token"
            )
        if (direction := getattr(data, "direction", "forward")) != "forward":
            raise UserError(f"data.direction is {direction}: expected forward with {name}, which reads texts that way")

    def _of_all_streams(self, state: Tensor) -> Tensor:
        """Collects [1, streams, units] of each process, which has every so manieth stream, in their order."""
        if self.trainer.world_size == 1:
            return state
        gathered = self.all_gather(state)
        assert isinstance(gathered, Tensor)
        return gathered.permute(1, 2, 0, 3).flatten(1, 2)

    def _log_training(self, loss: Tensor, tokens: int) -> None:
        self._loss_sum += loss
        self._batches += 1
        self._tokens += tokens
        self.log_means()

    def begin_interval(self) -> None:
        """Forgets the training steps before, and starts the clock."""
        self._loss_sum.zero_()
        self._batches = self._tokens = 0
        self._start = time.perf_counter()

    def means_so_far(self) -> dict[str, Tensor]:
        """Computes loss, perplexity and speed of the training steps since the last log."""
        if not self._batches:
            return {}
        # The perplexity is that of the mean over all processes, not the mean of theirs.
        mean = self.trainer.strategy.reduce(self._loss_sum / self._batches, reduce_op="mean")
        means = {"train/loss": mean, "train/perplexity": mean.exp()}
        if self._tokens:  # since the last validation
            rate = self._tokens * self.trainer.world_size / (time.perf_counter() - self._start)
            means["train/tokens_per_second"] = mean.new_tensor(rate)
        return means


def check_masking(network: nn.Module, data: Any) -> None:
    """Checks that the data wants those tokens predicted that the network predicts.

    Raises:
        UserError: For masked tokens where the network predicts the next ones, or the other way round.
    """
    is_masked = getattr(network, "is_masked", False)
    fraction = getattr(data, "masked_fraction", None)
    if fraction is not None and bool(fraction) != is_masked:
        predicts, way_out = ("masked tokens", "0.15") if is_masked else ("the next tokens", "0")
        name = type(network).__name__
        raise UserError(f"data.masked_fraction is {fraction}: expected {way_out}, as this {name} predicts {predicts}")


def mean_square(values: Tensor) -> Tensor:
    """Computes the mean square, in float32 at least, without a copy of the values in it."""
    norm: Tensor = torch.linalg.vector_norm(values, dtype=torch.promote_types(values.dtype, torch.float32))
    return norm.square() / values.numel()
