"""Classification, or regression, with any network: loss, metrics and an injected optimizer."""

import inspect
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lightning_transfer.data.batches import Batch, ProblemType, inputs_of, parts
from lightning_transfer.errors import UserError
from lightning_transfer.keywords import Keywords
from lightning_transfer.modules.cached_features import CachedFeatures
from lightning_transfer.modules.class_weights import ClassWeights, check_class_weights, weights_of_fit
from lightning_transfer.modules.losses import BinaryCrossEntropy, Loss
from lightning_transfer.modules.memory_layout import LaidOutModule, LayoutOptions
from lightning_transfer.modules.metrics import EvaluationMetrics
from lightning_transfer.modules.own_parts import build_loss, check_metrics
from lightning_transfer.modules.targets import TARGETS, refuse_rounded_labels


class ClassifierOptions(LayoutOptions, total=False):
    """The arguments of :class:`Classifier` beside the network and the number of classes, by name and type."""

    loss: Loss | nn.Module | None
    label_smoothing: float
    compile: bool
    cache_features: bool | Literal["shared"]
    problem_type: ProblemType
    metrics: dict[str, Metric] | MetricCollection | None
    class_weights: ClassWeights | None


class Classifier(LaidOutModule):
    """Trains and evaluates any network on data with one class, several classes or numbers for each example.

    Logs ``train/loss`` and ``train/accuracy`` as means over the logging interval, and for validation and test the
    loss, the accuracy, the F1 score averaged over classes, and the expected calibration error (15 bins). With several
    classes these are ``train/subset_accuracy``, and for validation and test that, F1 scores and the mean average
    precision; with numbers ``train/mae``, and MAE, RMSE and R².

    Args:
        network: The network: takes the inputs of a batch, gives logits [batch, classes], or numbers.
        num_classes: Number of classes, or of the numbers to predict; follows from the data on the command line.
        loss: For one class cross_entropy (if not given), binary_cross_entropy (one class against the rest; one logit
            will do for two classes) or mean_squared_error (to the one-hot label). For several binary_cross_entropy. For
            numbers mean_squared_error (if not given), mean_absolute_error or huber. Or any module that takes logits and
            labels and gives the mean of the batch. Where it has a method ``probabilities`` this turns logits into
            probabilities, in place of a softmax.
        label_smoothing: Share of the target that is spread evenly over all classes, from 0 to below 1.
        compile: Whether to compile the network with torch.compile, at its first batch: takes a minute, and again
            where unfreezing changes what is trained.
        cache_features: Whether to compute what comes before the lowest trained layer group once for each example and
            keep it, so that an epoch costs what it trains. The features take memory up to ``data.resident_gib``. They
            are dropped when a group below is thawed. Refused where they would be wrong: with augmented images, dropout
            below, or a network that cannot be cut there; and where nothing is frozen at the first step. With ``shared``
            they are also left in the folder of the cache, where other runs with the same frozen layers and inputs take
            them; such a run may begin with nothing frozen.
        problem_type: Whether each example has one class (classification), any number of classes (multilabel), or
            numbers (regression); follows from the data on the command line.
        class_weights: Weights of the classes in the training loss: balanced, which gives each class the same share of
            the training set, or a number for each class in the order of their names. The losses of validation and test
            stay as they are, so that runs can be compared.
        metrics: More metrics for validation and test, by name: they take probabilities, or numbers, and labels.

    Raises:
        UserError: For values out of range, a network whose outputs do not match the number of classes, and a loss or
            a metric that does not fit.
    """

    loss: Any
    frozen_in_fit: list[str]  # parameters below features that a fit has shared to its end
    shared_features: dict[str, float] | None = None  # what a record of a run says of features that it has shared
    _loss_sum: Tensor
    _score_sum: Tensor

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        loss: Loss | nn.Module | None = None,
        label_smoothing: float = 0.0,
        compile: bool = False,
        cache_features: bool | Literal["shared"] = False,
        problem_type: ProblemType = "classification",
        metrics: dict[str, Metric] | MetricCollection | None = None,
        class_weights: ClassWeights | None = None,
        **kwargs: Keywords[LayoutOptions],
    ) -> None:
        super().__init__(network, **kwargs)
        if problem_type not in TARGETS:
            raise UserError(f"model.problem_type is {problem_type}: expected {', '.join(TARGETS)}")
        self.targets = TARGETS[problem_type]
        if num_classes is None or num_classes < self.targets.least:
            raise UserError(f"model.num_classes is {num_classes}: expected {self.targets.least} or more")
        own_loss = ["loss"] if isinstance(loss, nn.Module) else []
        self.save_hyperparameters(ignore=["network", "optimizer", "lr_scheduler", "metrics", *own_loss])
        self.num_classes = num_classes
        self.problem_type = problem_type
        self.loss = build_loss(loss, self.targets, num_classes, label_smoothing)
        self.class_weights = check_class_weights(class_weights, self.loss, num_classes)
        self._weights: Tensor | None = None  # of the classes, in a fit
        self.cache_features, self.frozen_in_fit = cache_features, []
        if compile:
            self.network.compile()  # in place: the names of the weights stay
        own_metrics = check_metrics(metrics, self.targets, num_classes)
        self.validation_metrics = EvaluationMetrics(num_classes, problem_type, own_metrics)
        self.test_metrics = EvaluationMetrics(num_classes, problem_type, own_metrics)
        self._clear_log()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Computes the logits, float [batch, classes]."""
        try:
            logits: Tensor = self.network(*inputs)
        except (RuntimeError, TypeError) as error:
            _check_inputs(self.network, inputs, error)
            raise
        if logits.shape[1:] != (self.num_classes,):
            self._check_outputs(logits)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Computes the loss of a training batch, and logs the means at the end of a logging interval or an epoch."""
        inputs, labels = parts(batch, self.network)
        logits, labels = self(*inputs), self.targets.taken(labels, self.num_classes)
        loss = self.training_loss(logits, labels)
        self._log_training(loss, logits, labels)
        return loss

    def training_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Computes the mean loss of a training batch, in which classes count by their weights."""
        loss: Tensor
        loss = self.loss(logits, labels) if self._weights is None else self.loss.weighted(logits, labels, self._weights)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Adds a batch to the validation metrics, and gives its probabilities, or numbers, to callbacks."""
        return self._evaluate(batch, self.validation_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Adds a batch to the test metrics, and gives its probabilities, or numbers, to callbacks."""
        return self._evaluate(batch, self.test_metrics)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Computes the class probabilities of a batch, or its numbers, float32 [batch, classes]."""
        return self.predictions(self(*inputs_of(batch, self.network)))

    def predictions(self, logits: Tensor) -> Tensor:
        """Turns logits into probabilities or numbers, float32 [batch, classes]."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        predictions: Tensor = getattr(self.loss, "probabilities", self.targets.predictions)(logits)
        return predictions

    def _evaluate(self, batch: Batch, metrics: EvaluationMetrics) -> Tensor:
        inputs, labels = parts(batch, self.network)
        logits, labels = self(*inputs), self.targets.taken(labels, self.num_classes)
        # In float32 at least: checkpoints are chosen by the mean of these losses.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        predictions = self.predictions(logits)
        metrics.update(self.loss(logits, labels), predictions, self.targets.counted(labels))
        return predictions

    def on_validation_epoch_end(self) -> None:
        """Logs the validation metrics."""
        self._log_metrics("val", self.validation_metrics)

    def on_test_epoch_end(self) -> None:
        """Logs the test metrics."""
        self._log_metrics("test", self.test_metrics)

    def _log_metrics(self, stage: str, metrics: EvaluationMetrics) -> None:
        for name, value in metrics.compute_and_reset().items():
            # Equal on all processes already; sync_dist keeps Lightning from warning that they might not be.
            self.log(f"{stage}/{name}", value, prog_bar=name in ("loss", self.targets.chosen_by[0]), sync_dist=True)

    # ---- the way in -------------------------------------------------------------------------------------------------

    def configure_callbacks(self) -> list[L.Callback]:
        """Adds the cache of features, where it is asked for."""
        return [CachedFeatures(self.cache_features == "shared")] if self.cache_features else []

    def setup(self, stage: str) -> None:
        """Begins the log of a fit; a checkpoint's sums are loaded after this.

        Raises:
            UserError: For a precision that rounds the numbers to predict.
        """
        super().setup(stage)
        if stage != "predict":
            refuse_rounded_labels(str(self.trainer.precision), [self.problem_type])
        if stage == "fit":
            self._clear_log()

    def on_fit_start(self) -> None:
        """Takes from the training data the weights of the classes, and what the network needs before it learns."""
        self._weights = weights_of_fit(self.class_weights, getattr(self.trainer, "datamodule", None), self.device)
        self._loss_sum, self._score_sum = self._loss_sum.to(self.device), self._score_sum.to(self.device)
        self.fit_network_to_data()

    def _check_outputs(self, logits: Tensor) -> None:
        if logits.ndim != 2:
            raise UserError(
                f"the network gives a tensor {[*logits.shape]}: expected logits [batch, classes], a single one as"
                " [batch, 1]"
            )
        if not (isinstance(self.loss, BinaryCrossEntropy) and self.num_classes == 2 and logits.shape[1] == 1):
            expected = f"{self.num_classes} {self.targets.noun}"
            raise UserError(f"the network has {logits.shape[1]} outputs, and the data {expected}")

    # ---- the training log -------------------------------------------------------------------------------------------

    def _clear_log(self) -> None:
        # Sums since the last log, as tensors: reading them at every step would wait for the device. Not as buffers:
        # those get the precision of the weights, are averaged with them, and are overwritten by DDP.
        self._loss_sum, self._score_sum = torch.zeros(()), torch.zeros(())
        self._seen = {"batches": 0, "examples": 0}

    def _log_training(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        # All in place: torch looks for tensors and modules in whatever is assigned to an attribute.
        self._loss_sum.add_(loss.detach())
        self._score_sum.add_(self.targets.sum_of_scores(logits.detach(), labels))
        self._seen["examples"] += labels.shape[0]
        self._seen["batches"] += 1
        self.log_means()

    def begin_interval(self) -> None:
        """Forgets the training steps before."""
        self._loss_sum.zero_()
        self._score_sum.zero_()
        self._seen = dict.fromkeys(self._seen, 0)

    def means_so_far(self) -> dict[str, Tensor]:
        """Computes the loss and the score of the training steps since the last log."""
        if not self._seen["batches"]:
            return {}
        score = f"train/{self.targets.training_score}"
        loss, score_mean = self._loss_sum / self._seen["batches"], self._score_sum / self._seen["examples"]
        return {"train/loss": loss, score: score_mean}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the sums since the last log, those of each process: the next log is that of a run not stopped."""
        super().on_save_checkpoint(checkpoint)
        sums = self.sums_of_processes(torch.stack([self._loss_sum, self._score_sum]))
        checkpoint["interval"] = {"sums": sums, **self._seen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on with the saved sums, in a fit."""
        super().on_load_checkpoint(checkpoint)
        if self.is_fitting and (saved := checkpoint.get("interval")) is not None:
            loss_sum, score_sum = self.own_sums(saved["sums"])
            self._loss_sum.fill_(loss_sum)
            self._score_sum.fill_(score_sum)
            self._seen = {name: saved[name] for name in self._seen}


def _check_inputs(network: nn.Module, inputs: tuple[Tensor, ...], raised: Exception) -> None:
    """Words what torch raises where a network cannot compute with its inputs, as NumPy's numbers are float64."""
    of_weights = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    others = [x.dtype for x in inputs if isinstance(x, Tensor) and (x.is_floating_point() or x.dtype == torch.uint8)]
    if "type" in str(raised) and (others := [dtype for dtype in others if dtype != of_weights]):
        raise UserError(
            f"the data gives inputs of {_name_of(others[0])}: expected {_name_of(of_weights)}, as the weights of"
            f" {type(network).__name__} are; convert them in the data"
        ) from raised
    try:
        inspect.signature(network.forward).bind(*inputs)
    except TypeError as error:
        raise UserError(
            f"{type(network).__name__} does not take the {len(inputs)} inputs that the data gives ({error}): choose"
            " another model.network, or other data"
        ) from error


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
