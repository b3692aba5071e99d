"""Holds the callback that freezes a network and thaws it, layer group by layer group, while it trains."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.optim import Optimizer

from lightning_transfer.lightning_internals import step_frozen_without_scaler
from lightning_transfer.networks.layer_groups import LayerGroup
from lightning_transfer.transfer.freezing import FreezableModule, check_strategy, rebuild_replicas
from lightning_transfer.transfer.learning_rates import LearningRateScaler, decay_factors, scale_learning_rates
from lightning_transfer.transfer.phase_log import log_phase, say_missed, say_plan, say_transition
from lightning_transfer.transfer.plan_table import activation_memory, format_plan
from lightning_transfer.transfer.plateau import check_can_restore, validate, validation_follows
from lightning_transfer.transfer.resolution import ResolvedSchedule, check_schedule, resolve_schedule
from lightning_transfer.transfer.schedule import LearningRateSchedule, Phase, Position, Schedule, Until
from lightning_transfer.transfer.training_length import TrainingLength, training_length
from lightning_transfer.transfer.unfreezing_state import SavedSchedule, UnfreezingState


class ProgressiveUnfreezing(pl.Callback):
    """Trains a network's layer groups in phases: linear probe, gradual unfreezing, chain-thaw or phases of your own.

    The optimizer holds all parameters from the start and never changes. A frozen parameter has ``requires_grad`` False
    and no grad, so optimizers skip it. What is trainable follows only from the callback's state, which checkpoints
    hold. So a run resumed from any checkpoint goes on as if it had not stopped. Under DDP the module is wrapped again
    at each transition, so replicas stay equal and frozen layers cost no communication. Parameters that do not require
    grad before the fit stay frozen. After the fit, the module's ``requires_grad`` is as it was before.

    Args:
        layer_groups: From input to head: module paths or glob patterns relative to the LightningModule, each a group
            of its own, or a mapping from a group's name to its paths. By default the module's own ``layer_groups``.
        schedule: ``linear_probe`` (the head), ``full`` (everything), ``gradual`` (from the head down, one group a
            phase; the default) or ``chain`` (one group at a time, the head first, then from the input up, then all).
        until: When each phase of a named schedule but the last ends, counted from the phase's start: ``epochs``,
            ``steps`` (optimizer steps), ``fraction`` (a share of the whole training) or ``plateau`` (a logged metric).
            By default one epoch.
        phases: Explicit phases instead of a named schedule. Each adds its ``groups`` to those already trainable,
            unless ``only`` is set, and ends by its own ``until``.
        rest: How to treat parameters in no layer group, and layer groups in no explicit phase: ``frozen`` or
            ``trainable`` throughout. By default they are an error.
        frozen_norm_layers: With ``eval``, norm layers of frozen groups use their running statistics, and the buffers
            of frozen groups do not change. With ``tracking``, they use the batch's statistics, as in training.
        lr_decay: Number by which the learning rate is divided for each layer group away from the head. The optimizer
            must have one parameter group per layer group. By default the optimizer's learning rates do not change.
        lr_schedule: Shape over each phase of a named schedule, by which the scheduler's learning rates are multiplied:
            ``constant``, ``slanted_triangular`` or ``one_cycle``.
        thaw_frozen: Whether parameters that do not require grad before the fit are trained with their layer group, too.
        parameters: Which parameters below the head may train in any phase: ``norm`` (those of norm layers), ``bias``,
            or glob patterns of names in which ``*`` crosses dots (``*.bias``). The head trains whole. By default all.

    Attributes:
        plan_text: The plan as a table, once training has begun.
        outcome: How far the schedule came, once training has ended: the number of phases, how many have begun, the
            layer groups that never trained and why.
        resolve: Function that resolves the schedule on a module: its layer groups and its phases.
        eval_norm_layers: Whether the norm layers of frozen groups are in eval mode.
        lr_decay: The argument as given.

    Raises:
        UserError: If the schedule is wrong in itself. On ``fit``, before the first step, if it does not fit the
            module, the optimizer or the metrics.

    Source:
        Gradual unfreezing, discriminative and slanted triangular learning rates: Howard and Ruder, Universal Language
        Model Fine-tuning for Text Classification, 2018.
    """

    def __init__(
        self,
        layer_groups: list[str] | dict[str, list[str]] | None = None,
        schedule: Schedule | None = None,
        until: Until | dict[str, Any] | None = None,
        phases: list[Phase] | list[dict[str, Any]] | None = None,
        rest: Literal["frozen", "trainable"] | None = None,
        frozen_norm_layers: Literal["eval", "tracking"] = "eval",
        lr_decay: float | None = None,
        lr_schedule: LearningRateSchedule = "constant",
        thaw_frozen: bool = False,
        parameters: list[str] | None = None,
    ) -> None:
        given = check_schedule(schedule, until, phases, lr_schedule, rest, lr_decay, frozen_norm_layers)
        self.resolve: Callable[[nn.Module], ResolvedSchedule] = partial(
            resolve_schedule, layer_groups=layer_groups, thaw_frozen=thaw_frozen, parameters=parameters, **given
        )
        self.eval_norm_layers = frozen_norm_layers == "eval"
        self.lr_decay = lr_decay
        self._settings = {"lr_decay": str(lr_decay), "frozen_norm_layers": frozen_norm_layers}
        self._reset()

    def _reset(self) -> None:
        self._state = UnfreezingState()
        # The rest follows from the state, for the length of one fit.
        self._schedule: ResolvedSchedule | None = None
        self._module: FreezableModule | None = None
        self._scalers: list[LearningRateScaler] = []
        self._length = TrainingLength(math.inf, math.inf)
        self._now: Position | None = None
        self._not_before = (math.inf, math.inf)  # the phase cannot end before this epoch or this step
        self._waits_for_metrics = False
        self.plan_text = ""
        self.outcome: dict[str, Any] = {}

    @property
    def phase_index(self) -> int:
        """Number of the current phase, counted from 0."""
        return self._state.phase_index

    @property
    def phase(self) -> Phase:
        """The current phase."""
        return self._resolved.phases[self.phase_index]

    @property
    def phases(self) -> list[Phase]:
        """All phases, with the names of layer groups in place of patterns."""
        return self._resolved.phases

    @property
    def groups(self) -> dict[str, LayerGroup]:
        """The layer groups as found in the module, from input to head, then ``rest``."""
        return self._resolved.groups

    @property
    def trainable_groups(self) -> list[str]:
        """The layer groups that train now, from input to head."""
        return self._resolved.trainable(self.phase_index)

    @property
    def _resolved(self) -> ResolvedSchedule:
        if self._schedule is None:
            raise RuntimeError("the schedule is resolved when fit begins")
        return self._schedule

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begins at phase 0. A checkpoint's state is loaded after this."""
        if stage == "fit":
            self._reset()

    def state_dict(self) -> dict[str, Any]:
        """Returns the phase, its start, the state of its plateau and the schedule."""
        facts = self._schedule.facts() | self._settings if self._schedule else {}
        schedule = SavedSchedule(self.trainable_groups, facts) if self._schedule else None
        return self._state.state_dict(schedule)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a checkpoint's phase."""
        self._state = UnfreezingState.from_state_dict(state_dict)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks the schedule against the module, the optimizer and the checkpoint.

        The optimizer exists by now, and nothing is frozen before. So ``configure_optimizers`` may leave out parameters
        that do not require grad.
        """
        check_strategy(trainer)
        self._resolve(trainer, pl_module)
        self._waits_for_metrics = any(phase.until and phase.until.plateau for phase in self.phases)
        if self._waits_for_metrics and trainer.num_sanity_val_steps == 0:
            trainer.num_sanity_val_steps = 1  # only this shows before the first step what validation logs

    def _resolve(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._schedule = self.resolve(pl_module)
        self._schedule.check_optimizers(trainer.optimizers)
        check_can_restore(trainer, self._schedule.phases)
        if self._state.saved_schedule is not None:
            self._state.saved_schedule.check(self.phase_index, self._schedule, self._schedule.facts() | self._settings)

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freezes by the state, which any way of resuming has loaded by now."""
        self._resolve(trainer, pl_module)  # again: the module's own on_fit_start may have frozen parts for good
        self._module = FreezableModule(self.groups, self.eval_norm_layers)
        self._freeze(trainer)
        step_frozen_without_scaler(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measures the length of the training, and has the learning rates scaled."""
        if self._module is None:  # there was no sanity check
            self.on_sanity_check_start(trainer, pl_module)
        self._length = training_length(trainer)
        self._length.check(self.phases)
        factor = partial(self._lr_factor, trainer)
        self._scalers = scale_learning_rates(trainer.optimizers, self._resolved, self.lr_decay, factor)
        if self._state.owes_validation and trainer.enable_validation:
            validate(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begins the next phase if the current one is over and the optimizer has just stepped."""
        assert self._module is not None
        is_first, self._now = self._now is None, Position(trainer.current_epoch, batch_idx, trainer.global_step)
        start = self._state.start = self._state.start or self._now  # a checkpoint without state may be in mid-epoch
        if is_first:
            self.plan_text = self.plan_table(trainer, pl_module)
            say_plan(self.plan_text)
            self._not_before = self._length.not_before(self.phase, start)
            if trainer.global_step == start.step:  # otherwise the run was resumed, and has logged its phase before
                log_phase(trainer, self._resolved, self.phase_index)
        epoch, step = self._not_before
        may_be_over = self._state.watch.is_over or self._now.epoch >= epoch or self._now.step >= step
        if may_be_over and batch_idx % trainer.accumulate_grad_batches == 0:
            self._begin_next_phase_if_over(trainer, start, self._now)
        self._module.hold()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Drops the gradients of frozen parameters. In the first step, it checks that plateaus' metrics are logged."""
        if self._module is not None:
            self._module.drop_gradients()
        if trainer.global_step == 0:
            self._state.check_metrics(trainer, self.phases)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes whether a validation follows, for a checkpoint that is written before it."""
        if self._module is not None:
            self._module.hold()
        if self._waits_for_metrics and self._state.plateau(self.phases) is not None:
            self._state.owes_validation = validation_follows(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remembers the metric's value, to tell what the validation logs from what was logged before."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._state.begin_validation(trainer, self.phases)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks the metric that the phase waits for."""
        if self._module is not None and trainer.state.fn == TrainerFn.FITTING:
            self._module.hold()
            self._state.end_validation(trainer, self.phases)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks the metric that the phase waits for, if the training step logs it."""
        self._state.end_train_epoch(trainer, self.phases)

    def _begin_next_phase_if_over(self, trainer: pl.Trainer, start: Position, now: Position) -> None:
        if self._state.watch.is_over or self._length.is_over(self.phase, start, now):
            self._begin_next_phase(trainer, now)

    def _begin_next_phase(self, trainer: pl.Trainer, now: Position) -> None:
        self._state.watch.restore_best(trainer)
        self._state.begin_next_phase(now)
        self._not_before = self._length.not_before(self.phase, now)
        self._freeze(trainer)
        log_phase(trainer, self._resolved, self.phase_index)
        say_transition(self._resolved, self.phase_index, now)

    def _freeze(self, trainer: pl.Trainer) -> None:
        assert self._module is not None
        if self._module.set_trainable(self.trainable_groups):
            rebuild_replicas(trainer)

    def learning_rates(self, optimizer: Optimizer) -> list[float]:
        """Returns the learning rate of each parameter group of an optimizer at the next step."""
        scaler = next((scaler for scaler in self._scalers if scaler.optimizer is optimizer), None)
        return [group["lr"] for group in optimizer.param_groups] if scaler is None else scaler.learning_rates()

    def _lr_factor(self, trainer: pl.Trainer) -> float:
        assert self._state.start is not None
        assert self._now is not None
        now = self._now._replace(step=trainer.global_step)  # several steps may be taken within a batch
        return self._length.learning_rate_factor(self.phase, self._state.start, now)

    def plan_table(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any = None) -> str:
        """Returns the schedule as a table.

        Args:
            trainer: The trainer, which has set up the optimizers and the training data.
            pl_module: The module to be trained.
            batch: A training batch on the module's device, to measure the memory for activations in each phase.
                Without one, the table leaves the memory out.
        """
        if self._schedule is None:
            self._schedule = self.resolve(pl_module)
        kept = None
        if batch is not None:
            kept = activation_memory(trainer, pl_module, self.resolve, batch, self.eval_norm_layers)
        factors = [decay_factors(self._resolved, optimizer, self.lr_decay) for optimizer in trainer.optimizers]
        return format_plan(self._resolved, trainer.optimizers, training_length(trainer), kept, factors)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Warns of phases that never began."""
        self.outcome = self._resolved.outcome(self.phase_index, trainer.global_step)
        say_missed(self.outcome)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Gives the module back the requires_grad and the modes that it had before the fit."""
        if self._module is not None:
            self._module.restore()
        for scaler in self._scalers:
            scaler.remove()
        self._module, self._scalers = None, []

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restores the module also when the fit fails."""
        self.teardown(trainer, pl_module, "fit")
