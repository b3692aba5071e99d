"""Classification with any network: loss, metrics and an injected optimizer."""

import inspect
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lightning_transfer.errors import UserError
from lightning_transfer.modules.adversarial import adversarial_loss, find_embedding
from lightning_transfer.modules.feature_cache import FeatureCache
from lightning_transfer.modules.losses import Loss, class_probabilities, classification_loss, count_correct
from lightning_transfer.modules.metrics import EvaluationMetrics
from lightning_transfer.modules.optimization import OptimizedModule


class Batch(Protocol):
    """What the classifier needs of a batch."""

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The arguments of the network's ``forward``."""

    @property
    def labels(self) -> Tensor:
        """int64 [batch]; in training also the share of each class, float [batch, classes]."""


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
        adversarial_norm: Length of the step by which the embedded tokens of each document are moved towards a higher
            loss; the loss of the batch so moved is added to that of the batch as it is (Miyato et al., 2017). 0 for no
            adversarial training, which takes nearly three times as long.

    Raises:
        UserError: For values out of range, and a network whose outputs do not match the number of classes.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        loss: Loss = "cross_entropy",
        label_smoothing: float = 0.0,
        channels_last: bool = False,
        compile: bool = False,
        cache_features: bool = False,
        adversarial_norm: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(network.to(memory_format=torch.channels_last) if channels_last else network, **kwargs)
        if num_classes is None or num_classes < 2:
            raise UserError(f"model.num_classes is {num_classes}: expected 2 or more")
        if not 0 <= label_smoothing < 1:
            raise UserError(f"model.label_smoothing is {label_smoothing}: expected at least 0 and below 1")
        if adversarial_norm < 0:
            raise UserError(f"model.adversarial_norm is {adversarial_norm}: expected 0 or more")
        if adversarial_norm and cache_features:
            raise UserError("model.adversarial_norm and model.cache_features do not go together: leave one out")
        self.save_hyperparameters(ignore=["network", "optimizer", "lr_scheduler"])
        self.num_classes = num_classes
        self.loss: Loss = loss
        self.label_smoothing = label_smoothing
        self.cache_features = cache_features
        self._features: FeatureCache | None = None
        if compile:
            self.network.compile()  # in place: the names of the weights stay
        self.adversarial_norm = adversarial_norm
        if adversarial_norm:
            find_embedding(self.network)  # refuses a network without one
        self.validation_metrics = EvaluationMetrics(num_classes)
        self.test_metrics = EvaluationMetrics(num_classes)
        self._clear_log()

    def _clear_log(self) -> None:
        # Sums since the last log, as tensors: reading them at every step would wait for the device. Not as buffers:
        # those get the precision of the weights, are averaged with them, and are overwritten by DDP.
        self._loss_sum, self._correct = torch.zeros(()), torch.zeros(())
        self._examples = self._batches = 0

    def setup(self, stage: str) -> None:
        """Begins the log of a fit; a checkpoint's sums are loaded after this."""
        if stage == "fit":
            self._clear_log()

    def on_fit_start(self) -> None:
        """Prepares the cache of features, and what the network computes from training data before it learns."""
        self._loss_sum, self._correct = self._loss_sum.to(self.device), self._correct.to(self.device)
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.cache_features:
            self._features = FeatureCache(self.network, self.forward, data)
        network: Any = self.network
        sample_size = getattr(network, "sample_size", 0)
        if not sample_size:
            return
        if not hasattr(data, "training_sample"):
            raise UserError(
                f"{type(network).__name__} computes something from training examples first, which"
                f" {type(data).__name__} does not give: call network.fit_to_data(sample) before the fit"
            )
        network.fit_to_data(data.training_sample(sample_size).to(self.device))

    def on_fit_end(self) -> None:
        """Forgets the features: they are those of the training split."""
        self._features = None

    def forward(self, *inputs: Tensor) -> Tensor:
        """Computes the logits, float [batch, classes]."""
        try:
            logits: Tensor = self.network(*inputs)
        except TypeError:
            _check_inputs(self.network, inputs)
            raise
        if logits.ndim != 2:
            raise UserError(
                f"the network gives a tensor {[*logits.shape]}: expected logits [batch, classes], a single one as"
                " [batch, 1]"
            )
        single = self.loss == "binary_cross_entropy" and self.num_classes == 2 and logits.shape[1] == 1
        if logits.shape[1] != self.num_classes and not single:
            raise UserError(f"the network has {logits.shape[1]} outputs, and the data {self.num_classes} classes")
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Computes the loss of a training batch, and logs the means at the end of a logging interval."""
        logits, loss, *moved_loss = self._compute(batch)
        # In place: an assignment would go through torch's look for tensors among the attributes.
        self._loss_sum.add_(loss.detach())
        self._correct.add_(count_correct(logits.detach(), batch.labels))
        self._examples += batch.labels.shape[0]
        self._batches += 1
        if self.trainer._logger_connector.should_update_logs:
            self._log_training()
        return sum(moved_loss, loss)

    def _compute(self, batch: Batch) -> tuple[Tensor, ...]:
        """Logits and loss of a training batch, and in adversarial training the loss of the moved batch."""

        def compute() -> tuple[Tensor, Tensor]:
            logits = self._logits(batch)
            return logits, self._loss(logits, batch.labels)

        if not self.adversarial_norm:
            return compute()
        return adversarial_loss(find_embedding(self.network), batch.inputs[0], self.adversarial_norm, compute)

    def _log_training(self) -> None:
        means = {"train/loss": self._loss_sum / self._batches, "train/accuracy": self._correct / self._examples}
        self.log_dict(means, prog_bar=True, sync_dist=self.trainer.world_size > 1, batch_size=self._examples)
        self._loss_sum.zero_()
        self._correct.zero_()
        self._examples = self._batches = 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the sums since the last log, as means over the processes: the next log is that of a run not stopped."""
        sums = torch.stack([self._loss_sum, self._correct])
        loss_sum, correct = self.trainer.strategy.reduce(sums, reduce_op="mean").tolist()
        checkpoint["train_log"] = (loss_sum, correct, self._batches, self._examples)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on with the saved sums, in a fit."""
        if self.is_fitting and "train_log" in checkpoint:
            loss_sum, correct, self._batches, self._examples = checkpoint["train_log"]
            self._loss_sum.fill_(loss_sum)
            self._correct.fill_(correct)

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Adds a batch to the validation metrics, and gives its class probabilities to callbacks."""
        return self._evaluate(batch, self.validation_metrics)

    def on_validation_epoch_end(self) -> None:
        """Logs the validation metrics."""
        self._log_metrics("val", self.validation_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Adds a batch to the test metrics, and gives its class probabilities to callbacks."""
        return self._evaluate(batch, self.test_metrics)

    def on_test_epoch_end(self) -> None:
        """Logs the test metrics."""
        self._log_metrics("test", self.test_metrics)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Computes the class probabilities of a batch, float32 [batch, classes]."""
        return class_probabilities(self._logits(batch), self.loss)

    def _logits(self, batch: Any) -> Tensor:
        # A fit that failed leaves its features behind: no other stage may read them.
        if self._features is not None and self.is_fitting:
            return self._features.logits(batch)
        if not hasattr(batch, "inputs"):
            raise UserError(
                f"the data gives batches of {type(batch).__name__}: Classifier takes named tuples with labels and"
                " inputs, as lightning_transfer.data.batches.ImageBatch"
            )
        logits: Tensor = self(*batch.inputs)
        return logits

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return classification_loss(logits, labels, self.loss, self.num_classes, self.label_smoothing)

    def _evaluate(self, batch: Batch, metrics: EvaluationMetrics) -> Tensor:
        logits = self._logits(batch)
        probabilities = class_probabilities(logits, self.loss)
        metrics.update(self._loss(logits, batch.labels), probabilities, batch.labels)
        return probabilities

    def _log_metrics(self, stage: str, metrics: EvaluationMetrics) -> None:
        for name, value in metrics.compute_and_reset().items():
            # Equal on all processes already; sync_dist keeps Lightning from warning that they might not be.
            self.log(f"{stage}/{name}", value, prog_bar=name in ("loss", "accuracy"), sync_dist=True)


def _check_inputs(network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    try:
        inspect.signature(network.forward).bind(*inputs)
    except TypeError as error:
        raise UserError(
            f"{type(network).__name__} does not take the {len(inputs)} inputs that the data gives ({error}): choose"
            " another model.network, or other data"
        ) from error
