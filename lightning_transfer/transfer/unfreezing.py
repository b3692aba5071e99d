"""The callback that freezes a network and thaws it, layer group by layer group, while it trains."""

import math
from functools import partial
from typing import Any, Literal, get_args

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer

from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import LayerGroup
from lightning_transfer.transfer.freezing import FreezableModule, check_strategy, rebuild_replicas
from lightning_transfer.transfer.learning_rates import LearningRateScaler, decay_factors
from lightning_transfer.transfer.plan_table import activation_memory, format_plan, training_length
from lightning_transfer.transfer.plateau import (
    PlateauWatch,
    check_can_restore,
    check_is_logged,
    validate,
    validation_follows,
)
from lightning_transfer.transfer.resolution import ResolvedSchedule, resolve_schedule
from lightning_transfer.transfer.schedule import (
    LearningRateSchedule,
    Phase,
    Plateau,
    Position,
    Schedule,
    TrainingLength,
    Until,
    parse,
    parse_phases,
)


class ProgressiveUnfreezing(pl.Callback):
    """Trains a network's layer groups in phases: linear probe, gradual unfreezing, chain-thaw or phases of your own.

    The optimizer holds all parameters from the start and never changes; a frozen parameter has ``requires_grad`` False
    and no grad, so optimizers skip it. What is trainable follows from the callback's state alone, which checkpoints
    hold: a run resumed from any checkpoint goes on as if it had not stopped. Under DDP the module is wrapped again at
    each transition, so replicas stay equal and frozen layers cost no communication. After the fit, the module's
    ``requires_grad`` is as it was before.

    Args:
        layer_groups: From input to head: module paths or glob patterns relative to the LightningModule, each a group
            of its own, or a mapping from a group's name to its paths. By default the module's own ``layer_groups``.
        schedule: ``linear_probe`` (the head), ``full`` (everything), ``gradual`` (from the head down, one group a
            phase; the default) or ``chain`` (one group at a time, the head first, then from the input up, then all).
        until: When each phase of a named schedule but the last ends, counted from the phase's start: ``epochs``,
            ``steps`` (optimizer steps), ``fraction`` (of the whole training) or ``plateau`` (a logged metric).
            By default one epoch.
        phases: Explicit phases instead of a named schedule. Each adds its ``groups`` to those already trainable,
            unless ``only`` is set, and ends by its own ``until``.
        rest: What becomes of parameters in no layer group, and of layer groups in no explicit phase: ``frozen`` or
            ``trainable`` throughout. By default they are an error.
        frozen_norm_layers: ``eval``: norm layers of frozen groups use their running statistics and leave them
            unchanged. ``tracking``: they go on with the batch's, as in training.
        lr_decay: Divide the learning rate by this number for each layer group away from the head, where the optimizer
            has one parameter group per layer group. By default the optimizer's learning rates are left as they are.
        lr_schedule: A shape over each phase of a named schedule, times what the scheduler says: ``constant``,
            ``slanted_triangular`` or ``one_cycle``.

    Attributes:
        phase_index: The number of the current phase, from 0.
        plan_text: The plan as a table, once training has begun.
        resolve: Gives the schedule on a module: its layer groups and its phases.
        eval_norm_layers: Whether the norm layers of frozen groups are in eval mode.
        lr_decay: As given.

    Raises:
        UserError: If the schedule is wrong in itself; on ``fit``, before the first step, if it does not fit the
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
    ) -> None:
        if phases is not None and (schedule is not None or until is not None or lr_schedule != "constant"):
            raise UserError("phases are given as well as schedule, until or lr_schedule; say those within each phase")
        for name, value, known in (
            ("schedule", schedule, (None, *get_args(Schedule))),
            ("rest", rest, (None, "frozen", "trainable")),
            ("frozen_norm_layers", frozen_norm_layers, ("eval", "tracking")),
            ("lr_schedule", lr_schedule, get_args(LearningRateSchedule)),
        ):
            if value not in known:
                raise UserError(f"{name} {value!r} is not one of {', '.join(str(one) for one in known if one)}")
        if lr_decay is not None and lr_decay < 1:
            raise UserError(
                f"lr_decay is {lr_decay}: expected at least 1, the factor between neighbouring layer groups"
            )
        self.resolve = partial(
            resolve_schedule,
            layer_groups=layer_groups,
            schedule=parse_phases(phases) if phases is not None else schedule or "gradual",
            until=parse(Until, until, "until") if until is not None else Until(epochs=1),
            lr_schedule=lr_schedule,
            rest=rest,
        )
        self.eval_norm_layers = frozen_norm_layers == "eval"
        self.lr_decay = lr_decay
        self._reset()

    def _reset(self) -> None:
        # What checkpoints hold.
        self.phase_index = 0
        self._start: Position | None = None
        self._watch = PlateauWatch()
        self._owes_validation = False
        self._saved_groups: list[str] | None = None
        # What follows from it, for the length of one fit.
        self._schedule: ResolvedSchedule | None = None
        self._module: FreezableModule | None = None
        self._scalers: list[LearningRateScaler] = []
        self._metrics_to_check: set[str] | None = None
        self._length = TrainingLength(math.inf, math.inf)
        self._has_begun = False
        self.plan_text = ""

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

    @property
    def _plateau(self) -> Plateau | None:
        return self.phase.until.plateau if self.phase.until else None

    # ---- the way in -------------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin at phase 0; a checkpoint's state is loaded after this."""
        if stage == "fit":
            self._reset()

    def state_dict(self) -> dict[str, Any]:
        """Return the phase, its start and what its end waits for."""
        return {
            "phase_index": self.phase_index,
            "trainable_groups": self.trainable_groups if self._schedule else self._saved_groups,
            "start": self._start and tuple(self._start),
            "plateau": self._watch.state_dict(),
            "owes_validation": self._owes_validation,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint's phase."""
        self.phase_index = state_dict["phase_index"]
        self._saved_groups = state_dict["trainable_groups"]
        self._start = Position(*state_dict["start"]) if state_dict["start"] else None
        self._watch.load_state_dict(state_dict["plateau"])
        self._owes_validation = state_dict["owes_validation"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the schedule against the module and the optimizer, and freeze.

        The optimizer exists by now, so that ``configure_optimizers`` may well leave out what does not require grad.
        """
        check_strategy(trainer)
        self._schedule = self.resolve(pl_module)
        self._schedule.check_optimizers(trainer.optimizers)
        check_can_restore(trainer, self._schedule.phases)
        self._module = FreezableModule(self._schedule.groups, self.eval_norm_layers)
        plateaus = any(phase.until and phase.until.plateau for phase in self._schedule.phases)
        if plateaus and trainer.num_sanity_val_steps == 0:
            trainer.num_sanity_val_steps = 1  # the only way to know before the first step what validation logs
        self._freeze(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freeze by the state that was loaded meanwhile, on whatever way it came, and note where phase 0 starts."""
        self._freeze(trainer)
        self._length = training_length(trainer)
        self._length.check(self._resolved.phases)
        self._scale_learning_rates(trainer)
        if self._start is None:
            self._start = Position(trainer.current_epoch, 0, trainer.global_step)
            if not trainer.enable_validation:
                self._metrics_to_check = set()
        if self._owes_validation and self._plateau and trainer.enable_validation:
            validate(trainer)

    # ---- the way through --------------------------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin the next phase if the current one is over and the optimizer has just stepped."""
        assert self._module is not None
        assert self._start is not None
        if not self._has_begun:
            self._has_begun = True
            self.plan_text = self.plan_table(trainer, pl_module, batch)
            rank_zero_info("Unfreezing plan\n" + self.plan_text)
            if trainer.global_step == self._start.step:  # else a resumed run, which has logged its phase before
                self._log(trainer)
        until = self.phase.until
        if until is not None and batch_idx % trainer.accumulate_grad_batches == 0:
            now = Position(trainer.current_epoch, batch_idx, trainer.global_step)
            if self._watch.is_over or until.is_reached(self._start, now, self._length.total_steps):
                self._begin_next_phase(trainer, now)
        self._module.hold_norm_layers()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Check, after the first training step, that every plateau's metric is logged."""
        if self._metrics_to_check is not None and trainer.global_step == 0:
            check_is_logged(trainer, self._resolved.phases, self._metrics_to_check, is_epoch_end=False)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note whether a validation follows, for a checkpoint that is written before it."""
        if self._plateau is not None:
            self._owes_validation = validation_follows(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell what the validation logs from what was logged before."""
        if trainer.state.fn == TrainerFn.FITTING and self._plateau is not None:
            self._watch.begin_validation(trainer, self._plateau)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the metric that the phase waits for."""
        self._owes_validation = False
        if trainer.sanity_checking:
            self._metrics_to_check = set(trainer.callback_metrics)
        elif trainer.state.fn == TrainerFn.FITTING and self._plateau is not None:
            self._watch.end_validation(trainer, self._plateau)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the metric that the phase waits for, if the training step logs it."""
        if self._metrics_to_check is not None:
            check_is_logged(trainer, self._resolved.phases, self._metrics_to_check, is_epoch_end=True)
            self._metrics_to_check = None
        if self._plateau is not None:
            self._watch.end_train_epoch(trainer, self._plateau)

    def _begin_next_phase(self, trainer: pl.Trainer, now: Position) -> None:
        self._watch.restore_best(trainer)
        self._watch = PlateauWatch()
        self.phase_index += 1
        self._start = now
        self._saved_groups = None
        self._freeze(trainer)
        self._log(trainer)
        rank_zero_info(
            f"Epoch {now.epoch}, step {now.step}: phase {self.phase_index + 1} of {len(self._resolved.phases)} begins; "
            f"trainable: {', '.join(self.trainable_groups)}"
        )

    def _freeze(self, trainer: pl.Trainer) -> None:
        assert self._module is not None
        if self._saved_groups is not None:
            self._resolved.check_resumed(self.phase_index, self._saved_groups)
        if self._module.set_trainable(self.trainable_groups):
            rebuild_replicas(trainer)

    def _scale_learning_rates(self, trainer: pl.Trainer) -> None:
        scaled = any(phase.lr_multiplier != 1 or phase.lr_schedule != "constant" for phase in self._resolved.phases)
        if scaled or self.lr_decay is not None:
            for optimizer in trainer.optimizers:
                factors = decay_factors(self._resolved, optimizer, self.lr_decay)
                self._scalers.append(LearningRateScaler(optimizer, factors, partial(self._lr_factor, trainer)))

    def learning_rates(self, optimizer: Optimizer) -> list[float]:
        """Return the learning rate of each parameter group of an optimizer at the step about to be taken."""
        scaler = next((scaler for scaler in self._scalers if scaler.optimizer is optimizer), None)
        return [group["lr"] for group in optimizer.param_groups] if scaler is None else scaler.learning_rates()

    def _lr_factor(self, trainer: pl.Trainer) -> float:
        assert self._start is not None
        length = self._length.of_phase(self.phase, self._start.step)
        return self.phase.learning_rate_factor(trainer.global_step - self._start.step, length)

    # ---- the plan and the way out -----------------------------------------------------------------------------------

    def plan_table(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any) -> str:
        """Return the schedule as a table, with the activation memory that one training batch costs in each phase.

        Args:
            trainer: Has set up the optimizers and the training data.
            pl_module: The module to be trained.
            batch: A training batch on the module's device.
        """
        if self._schedule is None:
            self._schedule = self.resolve(pl_module)
        kept = activation_memory(trainer, pl_module, self.resolve, batch, self.eval_norm_layers)
        factors = [decay_factors(self._resolved, optimizer, self.lr_decay) for optimizer in trainer.optimizers]
        return format_plan(self._resolved, trainer.optimizers, training_length(trainer), kept, factors)

    def _log(self, trainer: pl.Trainer) -> None:
        parameters = self._resolved.parameters(self.trainable_groups).values()
        metrics: dict[str, float] = {
            "phase/index": self.phase_index + 1,
            "phase/trainable_parameters": sum(parameter.numel() for parameter in parameters),
        }
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the module back with the requires_grad and the modes that it came with."""
        if self._module is not None:
            self._module.restore()
        for scaler in self._scalers:
            scaler.remove()
        self._module, self._scalers = None, []

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the module back as it came also when the fit fails."""
        self.teardown(trainer, pl_module, "fit")
