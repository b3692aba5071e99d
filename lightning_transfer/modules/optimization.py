"""An injected optimizer and a learning rate over the whole training, around any network with layer groups."""

import math
from collections.abc import Iterable
from functools import partial
from statistics import fmean
from typing import Any, Literal, TypedDict

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.enums import GradClipAlgorithmType
from lightning.pytorch.utilities.parsing import lightning_hasattr
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from lightning_transfer.directions import decide_direction, direction_of
from lightning_transfer.errors import UserError
from lightning_transfer.modules import sparse_gradients
from lightning_transfer.networks.layer_groups import group_patterns
from lightning_transfer.networks.transformers_network import Transformer
from lightning_transfer.seeds import run_seed
from lightning_transfer.transfer.param_groups import build_optimizer


class OptimizationOptions(TypedDict, total=False):
    """The arguments of :class:`OptimizedModule` beside the network, by name and type."""

    optimizer: OptimizerCallable
    lr_decay: float
    decay_norm_and_bias: bool
    lr_schedule: Literal["constant", "linear", "cosine"]
    warmup_fraction: float
    lr_scheduler: LRSchedulerCallable | None
    lr_scheduler_interval: Literal["epoch", "step"]


class OptimizedModule(L.LightningModule):
    """What modules around a network share: its layer groups, the optimizer and the learning rate.

    Args:
        network: The network.
        optimizer: Takes the parameters, one named group for each layer group of the network.
        lr_decay: The learning rate of each layer group is that of the next one towards the head divided by this
            number; the head has the optimizer's own.
        decay_norm_and_bias: Whether weight decay reaches biases and the weights of norm layers too.
        lr_schedule: Shape of the learning rate over the whole training, by optimizer steps: constant, linear (down to
            0) or cosine (down to 0).
        warmup_fraction: Share of the training over which the learning rate first rises linearly from 0. With linear it
            gives the slanted triangle of Howard and Ruder (2018), with cosine the one cycle of Smith (2018).
        lr_scheduler: Any torch scheduler in place of ``lr_schedule``: takes the optimizer.
        lr_scheduler_interval: Whether that scheduler advances every epoch or every step.

    Raises:
        UserError: For values out of range.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerCallable = lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9),
        lr_decay: float = 1.0,
        decay_norm_and_bias: bool = True,
        lr_schedule: Literal["constant", "linear", "cosine"] = "constant",
        warmup_fraction: float = 0.0,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_scheduler_interval: Literal["epoch", "step"] = "epoch",
    ) -> None:
        super().__init__()
        if not 0 <= warmup_fraction < 1:
            raise UserError(f"model.warmup_fraction is {warmup_fraction}: expected at least 0 and below 1")
        if lr_scheduler is not None and (lr_schedule != "constant" or warmup_fraction):
            raise UserError("give model.lr_scheduler, or model.lr_schedule and model.warmup_fraction, not both")
        self.network = network
        self.optimizer = optimizer
        self.lr_decay = lr_decay
        self.decay_norm_and_bias = decay_norm_and_bias
        self.lr_schedule = lr_schedule
        self.warmup_fraction = warmup_fraction
        self.lr_scheduler = lr_scheduler
        self.lr_scheduler_interval = lr_scheduler_interval
        self._unwritten: dict[str, Tensor] = {}  # what was logged with the last batch of an epoch
        self._run_seed = 0

    @property
    def is_fitting(self) -> bool:
        """Whether a trainer's ``fit`` is what goes on, its validation included."""
        return self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING

    @property
    def is_log_step(self) -> bool:
        """Whether Lightning writes what the current training step logs: of batches that add up, the last one's."""
        trainer: Any = self._trainer  # not self.trainer, which looks for Fabric first: every step asks this
        every = trainer.log_every_n_steps
        if not (trainer.should_stop or (every > 0 and (trainer.global_step + 1) % every == 0)):
            return False
        batches = trainer.accumulate_grad_batches
        return bool(batches == 1 or (trainer.fit_loop.batch_idx + 1) % batches == 0 or trainer.is_last_batch)

    def log_means(self) -> None:
        """Logs the means since the last log from within a training step, where they are due.

        They are in a log step, and with the last batch of an epoch, whose line and monitors show them.
        """
        if self.is_log_step:
            self._log_all(self.means_so_far())
            self.begin_interval()
        elif self._trainer is not None and self._trainer.is_last_batch:
            self._unwritten = self.means_so_far()
            self._log_all(self._unwritten)

    def on_train_epoch_end(self) -> None:
        """Has Lightning write the means of the last interval, which it does in log steps alone."""
        self._log_all(self._unwritten or self.means_so_far())
        self._unwritten = {}

    def sums_of_processes(self, sums: Tensor) -> list[list[float]]:
        """Collects what each process has added up since the last log, float [sums], for a checkpoint."""
        gathered = self.all_gather(sums)
        assert isinstance(gathered, Tensor)
        found: list[list[float]] = gathered.reshape(-1, len(sums)).tolist()
        return found

    def own_sums(self, saved: list[list[float]]) -> list[float]:
        """Returns this process's part of saved sums; their mean on another number of processes."""
        if len(saved) == self.trainer.world_size:
            return saved[self.trainer.global_rank]
        return [fmean(of_all) for of_all in zip(*saved, strict=True)]

    def means_so_far(self) -> dict[str, Tensor]:
        """Computes what is logged of the training steps since the last log; nothing where there were none."""
        return {}

    def begin_interval(self) -> None:
        """Forgets the training steps before."""

    def _log_all(self, means: dict[str, Tensor]) -> None:
        if means:
            self.log_dict(means, prog_bar=True, sync_dist=self.trainer.world_size > 1, batch_size=1)

    @property
    def layer_groups(self) -> dict[str, list[str]]:
        """The layer groups of the network, as paths of modules from here."""
        groups: Any = self.network.layer_groups
        return {name: [f"network.{path}" for path in paths] for name, paths in group_patterns(groups).items()}

    def setup(self, stage: str) -> None:
        """Notes the seed of a fit; the one of a checkpoint is loaded after this.

        Raises:
            UserError: If Lightning's finder of a learning rate looks for one in a module that has none, and for
                documents that are longer than the network can read.
        """
        if isinstance(self.network, Transformer):
            self.network.check_length(getattr(self.trainer.datamodule, "longest_document", 0))  # type: ignore[attr-defined]
        if stage == "fit":
            finds = any(isinstance(it, LearningRateFinder) for it in self.trainer.callbacks)  # type: ignore[attr-defined]
            if finds and not any(lightning_hasattr(self, name) for name in ("lr", "learning_rate")):
                raise UserError(
                    f"Lightning's lr_find sets a learning rate in the module, and {type(self).__name__} has its own in"
                    " the optimizer: use the command lightning-transfer lr-find"
                )
            self._run_seed = run_seed(self._trainer)

    def fit_network_to_data(self) -> None:
        """Has the network compute what it needs of training examples before it learns, if anything.

        Raises:
            UserError: If the data gives none.
        """
        network: Any = self.network
        if not (sample_size := getattr(network, "sample_size", 0)):
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if not hasattr(data, "training_sample"):
            raise UserError(
                f"{type(network).__name__} computes something from training examples first, which"
                f" {type(data).__name__} does not give: call network.fit_to_data(sample) before the fit"
            )
        network.fit_to_data(data.training_sample(sample_size).to(self.device))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the seed, by which a resumed run draws what the whole one would have drawn, and the network's config."""
        checkpoint["run_seed"] = self._run_seed
        if isinstance(self.network, Transformer):  # to build it without the model's folder
            checkpoint["network_config"] = self.network.config

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on with the saved seed, in a fit."""
        if self.is_fitting:
            self._run_seed = checkpoint.get("run_seed", self._run_seed)

    def seed_of_draws(self, *place: int) -> int:
        """Makes the seed of what the network draws in a step, by the numbers of epoch, batch and process."""
        return hash((self._run_seed, *place))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Makes what the network draws, its dropout, a function of seed, place and process: so as after a resume."""
        if batch_idx == 0:  # not where the epoch before has ended: a run may go on from its last batch
            self.begin_interval()
        trainer: Any = self._trainer  # not self.trainer, which looks for Fabric first: every step asks this
        seed = self.seed_of_draws(trainer.current_epoch, batch_idx, trainer.global_rank)
        # Not torch.manual_seed: for each accelerator that is not in use it keeps every call, with its stack, for later.
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Builds the optimizer and the scheduler, if any.

        Raises:
            UserError: For a learning rate over the whole of a training without an end, a scheduler that undoes
                ``lr_decay``, and one that waits for a metric to fall which is better where it rises.
        """
        optimizer = self._build_optimizer()
        if self.lr_scheduler is None and self.lr_schedule == "constant" and not self.warmup_fraction:
            return optimizer
        if self.lr_scheduler is None:
            scheduler: LRScheduler = LambdaLR(optimizer, partial(self._learning_rate_factor, self._total_steps()))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
        decayed = {group["lr"] for group in optimizer.param_groups}
        scheduler = self.lr_scheduler(optimizer)
        # OneCycleLR and CyclicLR put learning rates of their own in place of what they find.
        groups = optimizer.param_groups
        if len(decayed) > 1 and len({group.get("initial_lr", group["lr"]) for group in groups}) == 1:
            raise UserError(
                f"model.lr_decay is {self.lr_decay:g}, but {type(scheduler).__name__} gives all layer groups one"
                f" learning rate: give it one for each of the {len(groups)} parameter groups, or set the lr_decay of"
                " ProgressiveUnfreezing instead"
            )
        config: LRSchedulerConfigType = {"scheduler": scheduler, "interval": self.lr_scheduler_interval}
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            config["monitor"] = "val/loss"
            if isinstance(scheduler, ReduceLROnPlateau):
                config["monitor"] = scheduler.monitor
                if direction_of(scheduler.monitor):  # torch's own default is min for every metric
                    decide_direction(scheduler.monitor, scheduler.mode, "mode of model.lr_scheduler")
        return {"optimizer": optimizer, "lr_scheduler": config}

    def _build_optimizer(self) -> torch.optim.Optimizer:
        if not hasattr(self.network, "layer_groups") and self.lr_decay == 1 and self.decay_norm_and_bias:
            return self._make_optimizer(self.parameters())
        return build_optimizer(
            self, self._make_optimizer, lr_decay=self.lr_decay, decay_norm_and_bias=self.decay_norm_and_bias
        )

    def _make_optimizer(self, params: Iterable[Any]) -> torch.optim.Optimizer:
        try:
            optimizer = self.optimizer(params)
        except (TypeError, ValueError) as error:
            raise UserError(f"model.optimizer: {error}") from error
        sparse_gradients.check_optimizer(optimizer, self.network)
        return optimizer

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips the gradients, also those that Lightning does not: sparse ones, and in bfloat16 a fused optimizer's.

        Lightning refuses the latter because a fused optimizer undoes the scaling of gradients, which only float16 has.
        """
        precision: Any = self.trainer.precision_plugin
        if gradient_clip_val and sparse_gradients.has_sparse_gradients(optimizer):
            sparse_gradients.clip(optimizer, float(gradient_clip_val), gradient_clip_algorithm)
        elif isinstance(precision, MixedPrecision) and precision.scaler is None:
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or GradClipAlgorithmType.NORM)
            Precision.clip_gradients(precision, optimizer, gradient_clip_val or 0.0, algorithm)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _total_steps(self) -> int:
        total_steps = self.trainer.estimated_stepping_batches
        if not 0 <= total_steps < math.inf:  # -1 is that of epochs without a number of batches
            raise UserError(
                f"model.lr_schedule is {self.lr_schedule} and model.warmup_fraction {self.warmup_fraction}: expected a"
                " training of known length, set trainer.max_epochs or trainer.max_steps"
            )
        return int(total_steps)

    def _learning_rate_factor(self, total_steps: int, step: int) -> float:
        warmup_steps = round(self.warmup_fraction * total_steps)
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        if self.lr_schedule == "linear":
            return 1 - progress
        return 0.5 * (1 + math.cos(math.pi * progress)) if self.lr_schedule == "cosine" else 1.0
