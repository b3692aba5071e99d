"""Several tasks learned together: one network up to its head, then a head and a loss for each task."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_transfer.data.batches import ProblemType, TaskBatch, inputs_of
from lightning_transfer.errors import UserError, with_options_of_task
from lightning_transfer.keywords import Keywords
from lightning_transfer.modules.gradient_balancing import Balancing, GradientBalancing, gradients_of
from lightning_transfer.modules.language_task import check_language_task, language_head, token_losses
from lightning_transfer.modules.losses import Loss
from lightning_transfer.modules.memory_layout import LaidOutModule, LayoutOptions
from lightning_transfer.modules.own_parts import build_loss
from lightning_transfer.modules.targets import TARGETS, refuse_rounded_labels
from lightning_transfer.modules.task_means import TaskMeans
from lightning_transfer.modules.task_metrics import TaskMetrics
from lightning_transfer.modules.task_weighting import Weighting, by_uncertainty, check_weights
from lightning_transfer.networks.head_replacement import outputs_of_head
from lightning_transfer.networks.task_heads import TaskHeads, split_head


class MultiTaskModule(LaidOutModule):
    """Trains one network on several tasks, with a head and a loss for each.

    The last linear layer of the network is replaced by one for each task, which are in the network's last layer group.
    In a step without examples of a task, its head is left as it is.

    Logs ``train/loss``, the mean of what was minimised, and ``train/<task>/loss`` with the task's score. Validation and
    test log for each task what ``Classifier`` logs, as ``val/<task>/accuracy``. Its mean over the tasks with labels is
    ``val/accuracy``, where all of them have it. A task may also be to predict the tokens of texts (Radford et al.,
    2018; Chronopoulou et al., 2019): it has a loss and a perplexity.

    Args:
        network: The network: takes the inputs of a batch, and has the outputs of all tasks together.
        outputs: Number of classes, or of the numbers to predict, of each task with labels; follows from the data on the
            command line.
        problem_types: What each example of a task has, by task: one class (classification), any number of classes
            (multilabel), or numbers (regression); follows from the data on the command line. Classification where a
            task has none.
        losses: The loss of each task, by name, as for ``Classifier``; the usual one of its problem type for others.
        loss_weights: The weight of each task's loss; 1 for others. A task of weight 0 is left out of steps that have
            others, and is validated and tested all the same.
        weighting: Whether these weights are all (fixed), each loss is also divided by the variance of its task's noise,
            which is learned (uncertainty), or the gradients of the tasks are balanced: by upgrad, mgda or aligned_mtl,
            with the extra torchjd, where each step has all tasks.
        label_smoothing: Share of the target that is spread evenly over all classes, from 0 to below 1, in tasks with
            classes.
        language_tasks: The tasks that predict tokens; follow from the data on the command line. The embeddings of the
            network are the weights of their output layer.
        cutoffs: Ids at which the vocabulary, most frequent tokens first, is cut into clusters for these tasks; see
            ``LSTMLanguageModel``.

    Raises:
        UserError: For values out of range, names of other tasks, a network whose head cannot be divided, and one that
            cannot predict tokens where a task does.
    """

    def __init__(
        self,
        network: nn.Module,
        outputs: dict[str, int],
        problem_types: dict[str, ProblemType] | None = None,
        losses: dict[str, Loss | nn.Module] | None = None,
        loss_weights: dict[str, float] | None = None,
        weighting: Weighting | Balancing = "fixed",
        label_smoothing: float = 0.0,
        language_tasks: list[str] | None = None,
        cutoffs: list[int] | None = None,
        **kwargs: Keywords[LayoutOptions],
    ) -> None:
        super().__init__(network, **kwargs)
        self.outputs = outputs
        self.language_tasks = language_tasks or []
        self.problem_types: dict[str, ProblemType] = {
            **dict.fromkeys(outputs, "classification"),
            **(problem_types or {}),
        }
        self.targets = {task: TARGETS[self.problem_types[task]] for task in outputs}
        for task, number in outputs.items():
            if number < (least := self.targets[task].least):
                raise UserError(f"task {task} has {number} {self.targets[task].noun}: expected {least} or more")
        given = losses or {}
        if unknown := [task for task in given if task not in outputs]:
            raise UserError(f"model.losses has {', '.join(unknown)}: expected tasks of {', '.join(outputs)}")
        self.save_hyperparameters("outputs", "problem_types", "weighting", "label_smoothing")
        split_head(network, outputs, {task: language_head(network, cutoffs) for task in self.language_tasks})
        self.losses = nn.ModuleDict()
        for task, targets in self.targets.items():
            smoothing = label_smoothing if targets.noun == "classes" else 0.0
            self.losses[task] = build_loss(given.get(task), targets, outputs[task], smoothing, f"losses.{task}")
        self.loss_weights = check_weights(loss_weights, self.all_tasks)
        self.weighting = weighting
        self.balancing = None if weighting in ("fixed", "uncertainty") else GradientBalancing(weighting)
        self._losses_of_step: list[Tensor] = []  # weighted, where gradients are balanced
        if weighting == "uncertainty":
            self.heads.learn_variances()
        untrained = [task for task, weight in self.loss_weights.items() if not weight]
        self.validation_metrics, self.test_metrics = (
            TaskMetrics(outputs, self.problem_types, self.language_tasks, untrained) for _ in range(2)
        )
        self._is_at_end = False  # whether the network is known to compute nothing after its heads
        self._learned: set[str] = set()  # tasks with examples since the last optimizer step
        self._means = TaskMeans(self.targets, self.language_tasks)

    @property
    def all_tasks(self) -> list[str]:
        """The names of the tasks: those with labels, and those that predict tokens."""
        return [*self.outputs, *self.language_tasks]

    @property
    def heads(self) -> TaskHeads:
        """The heads, which are a part of the network."""
        return next(part for part in self.network.modules() if isinstance(part, TaskHeads))

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Computes the logits of every task, float [batch, classes] each."""
        if self.training and not self._is_at_end:
            logits = outputs_of_head(self.network, self.heads, *inputs)
            self._is_at_end = True
        else:
            logits = self.network(*inputs)
        return dict(zip(self.outputs, torch.split(logits, list(self.outputs.values()), 1), strict=True))

    def _logits_of(self, batch: TaskBatch) -> dict[str, Tensor]:
        with with_options_of_task(batch.task):  # of which a network may say that its images are too small
            logits: dict[str, Tensor] = self(*inputs_of(batch.batch, self.network))
        return logits

    def training_step(self, batch: Sequence[TaskBatch], batch_idx: int) -> Tensor:
        """Computes the loss of a step over its tasks, and logs the means at the end of a logging interval or epoch."""
        losses = self.task_losses(self._weighted(batch), self._means.add)
        losses = {task: loss for task, loss in losses.items() if self.loss_weights[task]} or losses
        self._learned |= losses.keys()
        if self.weighting == "uncertainty":
            losses = by_uncertainty(losses, self.heads, self.problem_types)
        losses = {task: self.loss_weights[task] * loss for task, loss in losses.items()}
        loss = torch.stack(list(losses.values())).sum()
        if self.language_tasks:  # whose steps do not go through all heads, as DDP needs
            loss = loss + 0 * torch.stack([parameter.sum() for parameter in self.heads.parameters()]).sum()
        if self.balancing is not None:
            if not losses.keys() >= {task for task in self.all_tasks if self.loss_weights[task]}:
                raise UserError(
                    f"model.weighting is {self.weighting}: expected data.mixing together, so that each step has all"
                    f" tasks, and not only {', '.join(losses)}"
                )
            self._losses_of_step = list(losses.values())
        self._means.add_minimised(loss)
        self.log_means()
        return loss

    def _weighted(self, batch: Sequence[TaskBatch]) -> Sequence[TaskBatch]:
        """Leaves out tasks of weight 0, where the step has others, as the network is not to see their examples."""
        return [one for one in batch if any(self.loss_weights[task] for task in one.tasks)] or batch

    def task_losses(self, batch: Sequence[TaskBatch], note: Any = None) -> dict[str, Tensor]:
        """Computes the loss of each task of a step, unweighted; the network sees each example once.

        Args:
            batch: The batches of the step.
            note: Is called with the name of each task, its loss, logits and labels; without logits for tokens.
        """
        losses = {}
        for one in batch:
            if one.task in self.language_tasks:
                of_tokens = token_losses(self.network, self.heads.of_task[one.task], one.batch)
                losses[one.task] = of_tokens.mean() if len(of_tokens) else of_tokens.sum()
                if note is not None and len(of_tokens):
                    note(one.task, losses[one.task], None, of_tokens)
                continue
            logits = self._logits_of(one)
            for task, labels in one.labels.items():
                losses[task] = self.losses[task](logits[task], labels)
                if note is not None:
                    note(task, losses[task], logits[task], labels)
        return losses

    def shared_parameters(self) -> list[nn.Parameter]:
        """Lists the parameters of the network that train, but for those of one task alone."""
        own = {id(parameter) for parameter in self.heads.parameters()}
        return [one for one in self.network.parameters() if one.requires_grad and id(one) not in own]

    def shared_gradients(self, batch: Sequence[TaskBatch]) -> dict[str, Tensor]:
        """Computes the gradient of each task's loss by all shared parameters as one vector; none where none trains."""
        losses, shared = self.task_losses(batch), self.shared_parameters()
        return dict(zip(losses, gradients_of(list(losses.values()), shared), strict=True)) if shared else {}

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Computes the gradients, and balances those of the shared parameters, on all processes alike."""
        shared = self.shared_parameters() if self.balancing is not None else []
        gradients = None
        if shared:
            own = gradients_of(self._losses_of_step, shared)
            gradients = self.trainer.strategy.reduce(own, reduce_op="mean")
        self._losses_of_step = []
        super().backward(loss, *args, **kwargs)
        if self.balancing is not None and isinstance(gradients, Tensor):
            self.balancing.write(gradients, shared)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Leaves the heads of tasks without examples as they are: optimizers skip what has no gradient."""
        heads = self.heads
        for task in set(self.all_tasks) - self._learned:
            for parameter in heads.parameters_of(task):
                parameter.grad = None
        self._learned.clear()

    # ---- evaluation -------------------------------------------------------------------------------------------------

    def validation_step(self, batch: TaskBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Adds a batch to the validation metrics of its tasks, and gives their probabilities or numbers."""
        return self._evaluate(batch, self.validation_metrics)

    def test_step(self, batch: TaskBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Adds a batch to the test metrics of its tasks, and gives their probabilities or numbers."""
        return self._evaluate(batch, self.test_metrics)

    def predict_step(self, batch: TaskBatch, batch_idx: int) -> Tensor:
        """Computes the class probabilities of a batch by its task, or the numbers, float32 [batch, classes]."""
        return self.predictions(batch.task, self._logits_of(batch)[batch.task])

    def predictions(self, task: str, logits: Tensor) -> Tensor:
        """Turns the logits of a task into probabilities or numbers, float32 [batch, classes]."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        predictions: Tensor = getattr(self.losses[task], "probabilities", self.targets[task].predictions)(logits)
        return predictions

    def _evaluate(self, batch: TaskBatch, metrics: Any) -> dict[str, Tensor]:
        if batch.task in self.language_tasks:
            metrics[batch.task].update(token_losses(self.network, self.heads.of_task[batch.task], batch.batch))
            return {}
        logits = self._logits_of(batch)
        found = {}
        for task, labels in batch.labels.items():
            # In float32 at least: checkpoints are chosen by the mean of these losses.
            own = logits[task].to(torch.promote_types(logits[task].dtype, torch.float32))
            found[task] = self.predictions(task, own)
            metrics[task].update(self.losses[task](own, labels), found[task], self.targets[task].counted(labels))
        return found

    def on_validation_epoch_end(self) -> None:
        """Logs the validation metrics."""
        self._log_metrics("val", self.validation_metrics)

    def on_test_epoch_end(self) -> None:
        """Logs the test metrics."""
        self._log_metrics("test", self.test_metrics)

    def _log_metrics(self, stage: str, metrics: TaskMetrics) -> None:
        for name, value in metrics.compute_and_reset().items():
            # Equal on all processes already; sync_dist keeps Lightning from warning that they might not be.
            self.log(f"{stage}/{name}", value, prog_bar=name in metrics.shown, sync_dist=True)

    # ---- the training log -------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Begins the log of a fit; a checkpoint's sums are loaded after this.

        Raises:
            UserError: For a precision that rounds the numbers to predict.
        """
        super().setup(stage)
        if stage != "predict":
            refuse_rounded_labels(str(self.trainer.precision), self.problem_types.values())
        if stage == "fit":
            self._learned.clear()
            self._means.clear()

    def on_fit_start(self) -> None:
        """Brings the sums of the log to the device, and has the network see examples that it needs before it learns."""
        if self.balancing is not None:
            self.balancing.check(self.trainer)
        data: object = self.trainer.datamodule  # type: ignore[attr-defined]
        for task in self.language_tasks:
            check_language_task(self.network, getattr(data, "tasks", {}).get(task))
        self._means.to(self.device)
        self.fit_network_to_data()

    def begin_interval(self) -> None:
        """Forgets the training steps before."""
        self._means.clear()

    def means_so_far(self) -> dict[str, Tensor]:
        """Computes the means of the training steps since the last log, of the tasks that were in them."""
        return self._means.compute()

    def _log_all(self, means: dict[str, Tensor]) -> None:
        for name, value in means.items():
            is_shared = self.trainer.world_size > 1
            self.log(name, value, prog_bar=name == "train/loss", sync_dist=is_shared, batch_size=1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the sums since the last log, those of each process: the next log is that of a run not stopped."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["interval"] = self._means.state(self.sums_of_processes)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on with the saved sums, in a fit."""
        super().on_load_checkpoint(checkpoint)
        if self.is_fitting and (saved := checkpoint.get("interval")) is not None:
            self._means.load(saved, self.own_sums)
