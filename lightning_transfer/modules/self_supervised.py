"""Learning from images without labels: two views of each image, and labels in validation alone."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_transfer.data.batches import ImageBatch, TwoViewBatch
from lightning_transfer.errors import UserError
from lightning_transfer.keywords import Keywords
from lightning_transfer.modules.feature_evaluation import (
    LabelledFeatures,
    LinearProbe,
    effective_rank,
    neighbour_shares,
    spread,
)
from lightning_transfer.modules.memory_layout import LaidOutModule, LayoutOptions
from lightning_transfer.modules.own_parts import check_loss_of_views
from lightning_transfer.modules.view_losses import VIEW_LOSSES, ViewLoss, ViewLossName
from lightning_transfer.networks.head_replacement import outputs_of_head, replace_head
from lightning_transfer.networks.projection_head import ProjectionHead

# Of the embeddings' spread, in training. Chen and He (2021, figure 2) see about 1 in trainings that go well, and
# nearly 0 where all images get the same embedding.
SMALLEST_SPREAD = 0.1


class SelfSupervisedModule(LaidOutModule):
    """Trains a network on two views of each image, so that ``--init_from`` can start a classifier from it.

    A projector takes the place of the network's last linear layer. It belongs to the last layer group, and a classifier
    does without it. The two views of an image come from ``data.views``.

    Logs ``train/loss`` and ``train/spread``, that of the projections: about 1 where they point everywhere. Where all
    images get nearly the same one, the training stops. Validation and test log for the features, which come before the
    projector, ``knn_accuracy``, ``probe_accuracy`` and ``effective_rank``. The two accuracies are those of the nearest
    of all training examples, and of a linear classifier of them; images without labels have none. Labels are used
    there alone, and the last weights are the result: no best checkpoint is chosen.

    Args:
        network: The network: takes images, and has a linear layer at its end.
        num_classes: Number of classes; follows from the data on the command line.
        loss: simclr, barlow_twins, simsiam, or one of SimCLRLoss, BarlowTwinsLoss and SimSiamLoss with its arguments.
            Or any module that takes the projections of both views, and gives the mean of the batch.
        projector: Number of outputs of each linear layer of the projector, that of the loss if not given.
        neighbours: Number of nearest training examples that vote for a class.

    Raises:
        UserError: For values out of range, and a network without a linear layer at its end.
    """

    has_best: ClassVar[bool] = False  # to choose one takes labels
    _sums: Tensor

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        loss: ViewLossName | nn.Module = "simclr",
        projector: Sequence[int] | None = None,
        neighbours: int = 200,
        **kwargs: Keywords[LayoutOptions],
    ) -> None:
        super().__init__(network, **kwargs)
        if num_classes is None or num_classes < 1:
            raise UserError(f"model.num_classes is {num_classes}: expected 1 or more")
        if neighbours < 1:
            raise UserError(f"model.neighbours is {neighbours}: expected 1 or more")
        if isinstance(loss, str) and loss not in VIEW_LOSSES:
            raise UserError(f"model.loss is {loss}: expected {', '.join(VIEW_LOSSES)} or a module of your own")
        own_loss = ["loss"] if isinstance(loss, nn.Module) else []
        self.save_hyperparameters(ignore=["network", "optimizer", "lr_scheduler", *own_loss])
        self.num_classes, self.neighbours = num_classes, neighbours
        self.loss: nn.Module = VIEW_LOSSES[loss]() if isinstance(loss, str) else loss
        of_loss = self.loss if isinstance(self.loss, ViewLoss) else ViewLoss
        widths = of_loss.projector if projector is None else projector
        head = (widths, of_loss.norm_at_end, of_loss.predictor_width)
        replace_head(network, lambda layer: ProjectionHead(layer.in_features, *head))
        check_loss_of_views(self.loss, self.head.out_features)
        self._is_at_end = False  # whether the network is known to compute nothing after its head
        self._queries: list[LabelledFeatures] = []  # of the batches of an evaluation
        self._bank: LabelledFeatures | None = None  # of the training examples, in an evaluation
        self._clear_log()

    @property
    def head(self) -> ProjectionHead:
        """The projector and the predictor, which are a part of the network."""
        return next(part for part in self.network.modules() if isinstance(part, ProjectionHead))

    def forward(self, images: Tensor) -> Tensor:
        """Computes the features, float [batch, features]: what the head of a classifier is given."""
        return self.head.parts(self.network(images))[2]

    def training_step(self, batch: TwoViewBatch, batch_idx: int) -> Tensor:
        """Computes the loss of a batch, and logs the means at the end of a logging interval or an epoch."""
        if not isinstance(batch, TwoViewBatch):
            raise UserError(
                f"the data gives batches of {type(batch).__name__}: expected two views of each image, set data.views"
            )
        images = batch.images.flatten(0, 1)
        outputs = self.network(images) if self._is_at_end else outputs_of_head(self.network, self.head, images)
        self._is_at_end = True
        with torch.autocast(self.device.type, enabled=False):
            outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
            projections, predictions, _ = self.head.parts(outputs)
            first, second = projections[::2], projections[1::2]
            if predictions is None:
                loss: Tensor = self.loss(first, second)
            else:
                loss = (self.loss(predictions[::2], second) + self.loss(predictions[1::2], first)) / 2
            self._sums.add_(torch.stack([loss.detach(), spread(projections.detach())]))
        self._batches += 1
        self.log_means()
        return loss

    # ---- evaluation -------------------------------------------------------------------------------------------------

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Keeps the features of a batch."""
        if batch_idx == 0:
            self._queries.clear()
        self._queries.append(LabelledFeatures(self(batch.images).float(), batch.labels))

    test_step = validation_step

    def on_validation_epoch_start(self) -> None:
        """Computes the features of the training examples, by the weights that the whole evaluation has."""
        self._bank = self._training_features()

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        """Logs what the features are worth."""
        self._evaluate("val")

    def on_test_epoch_end(self) -> None:
        """Logs what the features are worth."""
        self._evaluate("test")

    def _evaluate(self, stage: str) -> None:
        queries, labels = (torch.cat(parts) for parts in zip(*self._queries, strict=True))
        sizes = [len(one.labels) for one in self._queries]
        self._queries.clear()
        bank, self._bank = self._bank, None
        assert bank is not None
        self.log(f"{stage}/effective_rank", effective_rank(bank.features), sync_dist=True)
        if self.num_classes == 1:  # images without labels
            return
        probe = LinearProbe(bank, self.num_classes)
        correct = torch.zeros(2, device=self.device, dtype=torch.float64)
        for features, own in zip(torch.split(queries, sizes), torch.split(labels, sizes), strict=True):
            scores = neighbour_shares(features, bank, self.num_classes, self.neighbours), probe.logits(features)
            correct += torch.stack([(each.argmax(1) == own).sum() for each in scores])
        counts = torch.cat([correct, correct.new_tensor([len(labels)])])
        *found, count = self.trainer.strategy.reduce(counts, reduce_op="sum")
        for name, number in zip(("knn_accuracy", "probe_accuracy"), found, strict=True):
            # Equal on all processes already; sync_dist keeps Lightning from warning that they might not be.
            self.log(f"{stage}/{name}", (number / count).float(), prog_bar=True, sync_dist=True)

    def _training_features(self) -> LabelledFeatures:
        """Computes the features of the training examples as they are, on all processes together."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if not hasattr(data, "training_part"):
            raise UserError(
                f"{type(data).__name__} gives no training examples to compare others with: derive it from"
                " ImageDataModule, or set trainer.limit_val_batches 0"
            )
        if not len(data.training_part[1]):  # a test alone does not read them
            data.setup("validate")
        split, rows = data.training_part
        limit: int | float = self.trainer.limit_train_batches
        count = limit * data.batch_size if isinstance(limit, int) else max(1, round(limit * len(rows)))
        # Evenly spaced, as the first ones may be of one class.
        kept = torch.linspace(0, len(rows) - 1, min(count, len(rows)), dtype=torch.float64).long()
        rows = rows[kept.numpy()]
        places = torch.from_numpy(rows).to(self.device)
        features = torch.zeros(len(rows), self.head.in_features, device=self.device)
        with self.trainer.precision_plugin.forward_context():
            for batch in data.eval_loader(split, rows):
                batch = self.trainer.strategy.batch_to_device(batch, dataloader_idx=0)
                features[torch.searchsorted(places, batch.indices)] = self(batch.images).float()
        # Each process has computed some rows, and has 0 in the others.
        features = self.trainer.strategy.reduce(features, reduce_op="sum")
        if not features.isfinite().all():
            raise UserError(
                f"the features of training examples are not finite after step {self.trainer.global_step}: the training"
                " diverged, lower the learning rate"
            )
        return LabelledFeatures(features, split.labels.to(self.device)[places])

    # ---- the way in, and the training log ---------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Begins the log of a fit; a checkpoint's sums are loaded after this.

        Raises:
            UserError: For a prediction.
        """
        super().setup(stage)
        if stage == "predict":
            raise UserError("SelfSupervisedModule predicts no classes: start a Classifier from its checkpoint first")
        if stage == "fit":
            self._clear_log()

    def on_fit_start(self) -> None:
        """Checks the data, and takes from the training examples what the network needs before it learns.

        Raises:
            UserError: For data whose examples have not one class each, or without views.
        """
        data: Any = getattr(self.trainer, "datamodule", None)
        if hasattr(data, "tasks"):
            raise UserError("SelfSupervisedModule learns from one set of images: expected the data of a single task")
        if getattr(data, "batch_size", 2) < 2:
            raise UserError(f"data.batch_size is {data.batch_size}: expected 2 or more, as images are compared")
        if hasattr(data, "training_part") and len(data.training_part[1]) < 2:
            raise UserError("the training split has 1 image: expected 2 or more, as images are compared")
        if getattr(data, "balanced_sampling", False):
            raise UserError("data.balanced_sampling is true: expected false, as the training looks at no labels")
        if (kind := getattr(data, "problem_type", "classification")) != "classification":
            raise UserError(f"data.problem_type is {kind}: expected classification, for the validation by neighbours")
        if hasattr(data, "views") and data.views is None:
            raise UserError("data.views is null: expected two views of each image, as by --data.views {}")
        self._sums = self._sums.to(self.device)
        self.fit_network_to_data()

    def _clear_log(self) -> None:
        # Of loss and spread since the last log, as one tensor, which no step has to read; not a buffer, which gets the
        # precision of the weights.
        self._sums = torch.zeros(2)
        self._batches = 0

    def begin_interval(self) -> None:
        """Forgets the training steps before."""
        self._sums.zero_()
        self._batches = 0

    def means_so_far(self) -> dict[str, Tensor]:
        """Computes the loss and the spread of the training steps since the last log."""
        if not self._batches:
            return {}
        loss, width = self._sums / self._batches
        return {"train/loss": loss, "train/spread": width}

    def _log_all(self, means: dict[str, Tensor]) -> None:
        super()._log_all(means)
        # Not in the first interval: an untrained network tells few images apart.
        if means and self.trainer.global_step >= self.trainer.log_every_n_steps:  # type: ignore[attr-defined]
            check_spread(float(means["train/spread"]), self.trainer.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the sums since the last log, those of each process: the next log is that of a run not stopped."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["interval"] = {"sums": self.sums_of_processes(self._sums), "batches": self._batches}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on with the saved sums, in a fit."""
        super().on_load_checkpoint(checkpoint)
        if self.is_fitting and (saved := checkpoint.get("interval")) is not None:
            self._sums.copy_(torch.tensor(self.own_sums(saved["sums"])))
            self._batches = saved["batches"]


def check_spread(width: float, step: int) -> None:
    """Checks that the embeddings of a training are spread.

    Raises:
        UserError: If all are nearly the same after that step.
    """
    if not math.isfinite(width):
        raise UserError(f"train/spread is {width} after step {step}: the training diverged, lower the learning rate")
    if width < SMALLEST_SPREAD:
        raise UserError(
            f"train/spread is {width:.2g} after step {step}: expected {SMALLEST_SPREAD} or more. The network has"
            " collapsed, all images get nearly the same embedding: lower the learning rate, or choose another"
            " model.loss"
        )
