"""Classification with any network: loss, metrics and an injected optimizer."""

import inspect
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lightning_transfer.data.batches import Batch, parts
from lightning_transfer.errors import UserError
from lightning_transfer.keywords import Keywords
from lightning_transfer.modules.feature_cache import CachedFeatures
from lightning_transfer.modules.losses import LOSSES, Loss
from lightning_transfer.modules.metrics import EvaluationMetrics
from lightning_transfer.modules.optimization import OptimizationOptions, OptimizedModule


class ClassifierOptions(OptimizationOptions, total=False):
    """The arguments of :class:`Classifier` beside the network and the number of classes, by name and type."""

    loss: Loss
    label_smoothing: float
    channels_last: bool
    compile: bool
    cache_features: bool


class Classifier(OptimizedModule):
    """Trains and evaluates any network on any classification data.

    Logs ``train/loss`` and ``train/accuracy`` as means over the logging interval, and for validation and test the
    loss, the accuracy, the F1 score averaged over classes, and the expected calibration error (15 bins).

    Args:
        network: The network: takes the inputs of a batch, gives logits [batch, classes].
        num_classes: Number of classes; follows from the data on the command line.
        loss: cross_entropy, binary_cross_entropy (one class against the rest; one logit will do for two classes) or
            mean_squared_error (to the one-hot label).
        label_smoothing: Share of the target that is spread evenly over all classes, from 0 to below 1.
        channels_last: Whether to lay out convolutions with the channels last in memory: the same network, faster on
            most hardware.
        compile: Whether to compile the network with torch.compile, at its first batch: takes a minute, and again
            where unfreezing changes what is trained.
        cache_features: Whether to compute what comes before the head once for each example and keep it, so that an
            epoch of a linear probe costs what its head costs. Refused where a layer below the head is trained, or
            images are augmented.

    Raises:
        UserError: For values out of range, and a network whose outputs do not match the number of classes.
    """

    _loss_sum: Tensor
    _correct: Tensor

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        loss: Loss = "cross_entropy",
        label_smoothing: float = 0.0,
        channels_last: bool = False,
        compile: bool = False,
        cache_features: bool = False,
        **kwargs: Keywords[OptimizationOptions],
    ) -> None:
        super().__init__(network.to(memory_format=torch.channels_last) if channels_last else network, **kwargs)
        if num_classes is None or num_classes < 2:
            raise UserError(f"model.num_classes is {num_classes}: expected 2 or more")
        if not 0 <= label_smoothing < 1:
            raise UserError(f"model.label_smoothing is {label_smoothing}: expected at least 0 and below 1")
        self.save_hyperparameters(ignore=["network", "optimizer", "lr_scheduler"])
        self.num_classes = num_classes
        self.loss = LOSSES[loss](num_classes, label_smoothing)
        self.cache_features = cache_features
        if compile:
            self.network.compile()  # in place: the names of the weights stay
        self.validation_metrics = EvaluationMetrics(num_classes)
        self.test_metrics = EvaluationMetrics(num_classes)
        self._clear_log()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Computes the logits, float [batch, classes]."""
        try:
            logits: Tensor = self.network(*inputs)
        except TypeError:
            _check_inputs(self.network, inputs)
            raise
        if logits.shape[1:] != (self.num_classes,):
            self._check_outputs(logits)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Computes the loss of a training batch, and logs the means at the end of a logging interval or an epoch."""
        inputs, labels = parts(batch)
        logits = self(*inputs)
        loss = self.loss(logits, labels)
        self._log_training(loss, logits, labels)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Adds a batch to the validation metrics, and gives its class probabilities to callbacks."""
        return self._evaluate(batch, self.validation_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Adds a batch to the test metrics, and gives its class probabilities to callbacks."""
        return self._evaluate(batch, self.test_metrics)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Computes the class probabilities of a batch, float32 [batch, classes]."""
        inputs, _ = parts(batch)
        return self.loss.probabilities(self(*inputs))

    def _evaluate(self, batch: Batch, metrics: EvaluationMetrics) -> Tensor:
        inputs, labels = parts(batch)
        logits = self(*inputs)
        # In float32 at least: checkpoints are chosen by the mean of these losses.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        probabilities = self.loss.probabilities(logits)
        metrics.update(self.loss(logits, labels), probabilities, labels)
        return probabilities

    def on_validation_epoch_end(self) -> None:
        """Logs the validation metrics."""
        self._log_metrics("val", self.validation_metrics)

    def on_test_epoch_end(self) -> None:
        """Logs the test metrics."""
        self._log_metrics("test", self.test_metrics)

    def _log_metrics(self, stage: str, metrics: EvaluationMetrics) -> None:
        for name, value in metrics.compute_and_reset().items():
            # Equal on all processes already; sync_dist keeps Lightning from warning that they might not be.
            self.log(f"{stage}/{name}", value, prog_bar=name in ("loss", "accuracy"), sync_dist=True)

    # ---- the way in -------------------------------------------------------------------------------------------------

    def configure_callbacks(self) -> list[L.Callback]:
        """Adds the cache of features, where it is asked for."""
        return [CachedFeatures()] if self.cache_features else []

    def setup(self, stage: str) -> None:
        """Begins the log of a fit; a checkpoint's sums are loaded after this."""
        super().setup(stage)
        if stage == "fit":
            self._clear_log()

    def on_fit_start(self) -> None:
        """Has the network compute from training data what it needs before it learns."""
        self._loss_sum, self._correct = self._loss_sum.to(self.device), self._correct.to(self.device)
        network: Any = self.network
        sample_size = getattr(network, "sample_size", 0)
        if not sample_size:
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if not hasattr(data, "training_sample"):
            raise UserError(
                f"{type(network).__name__} computes something from training examples first, which"
                f" {type(data).__name__} does not give: call network.fit_to_data(sample) before the fit"
            )
        network.fit_to_data(data.training_sample(sample_size).to(self.device))

    def _check_outputs(self, logits: Tensor) -> None:
        if logits.ndim != 2:
            raise UserError(
                f"the network gives a tensor {[*logits.shape]}: expected logits [batch, classes], a single one as"
                " [batch, 1]"
            )
        if not (self.hparams["loss"] == "binary_cross_entropy" and self.num_classes == 2 and logits.shape[1] == 1):
            raise UserError(f"the network has {logits.shape[1]} outputs, and the data {self.num_classes} classes")

    # ---- the training log -------------------------------------------------------------------------------------------

    def _clear_log(self) -> None:
        # Sums since the last log, as tensors: reading them at every step would wait for the device. Not as buffers:
        # those get the precision of the weights, are averaged with them, and are overwritten by DDP.
        self._loss_sum, self._correct = torch.zeros(()), torch.zeros(())
        self._examples = self._batches = 0

    def _log_training(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        # In place: an assignment would go through torch's look for tensors among the attributes.
        self._loss_sum.add_(loss.detach())
        self._correct.add_(count_correct(logits.detach(), labels))
        self._examples += labels.shape[0]
        self._batches += 1
        self.log_means()

    def begin_interval(self) -> None:
        """Forgets the training steps before."""
        self._loss_sum.zero_()
        self._correct.zero_()
        self._examples = self._batches = 0

    def means_so_far(self) -> dict[str, Tensor]:
        """Computes loss and accuracy of the training steps since the last log."""
        if not self._batches:
            return {}
        return {"train/loss": self._loss_sum / self._batches, "train/accuracy": self._correct / self._examples}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the sums since the last log, as means over the processes: the next log is that of a run not stopped."""
        super().on_save_checkpoint(checkpoint)
        sums = torch.stack([self._loss_sum, self._correct])
        loss_sum, correct = self.trainer.strategy.reduce(sums, reduce_op="mean").tolist()
        checkpoint["train_log"] = (loss_sum, correct, self._batches, self._examples)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on with the saved sums, in a fit."""
        super().on_load_checkpoint(checkpoint)
        if self.is_fitting and "train_log" in checkpoint:
            loss_sum, correct, self._batches, self._examples = checkpoint["train_log"]
            self._loss_sum.fill_(loss_sum)
            self._correct.fill_(correct)


def count_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Counts the examples that are predicted correctly; of a mixed one, the share of it that is.

    Args:
        logits: float [batch, num_classes], or [batch, 1] for binary cross-entropy of two classes.
        labels: int64 [batch], or the share of each class, float [batch, num_classes].

    Returns:
        float32, a scalar.
    """
    predicted = (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)
    if labels.is_floating_point():
        return labels.gather(1, predicted.unsqueeze(1)).sum(dtype=torch.float32)
    return (predicted == labels).sum(dtype=torch.float32)


def _check_inputs(network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    try:
        inspect.signature(network.forward).bind(*inputs)
    except TypeError as error:
        raise UserError(
            f"{type(network).__name__} does not take the {len(inputs)} inputs that the data gives ({error}): choose"
            " another model.network, or other data"
        ) from error
