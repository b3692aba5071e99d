"""Thaws a network only as deep as its gradients say it pays, whenever a metric has stopped improving."""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from lightning_transfer.errors import UserError
from lightning_transfer.transfer.gradient_evidence import relative_gradient_norms
from lightning_transfer.transfer.phase_log import say_missed
from lightning_transfer.transfer.plateau import PlateauWatch
from lightning_transfer.transfer.resolution import ResolvedSchedule
from lightning_transfer.transfer.schedule import Phase, Position, Until
from lightning_transfer.transfer.starting_point import refuse_divided_weights
from lightning_transfer.transfer.unfreezing import ProgressiveUnfreezing


@dataclass(frozen=True)
class Decision:
    """What was decided at the end of a phase, and why.

    Attributes:
        step: Optimizer steps taken before.
        evidence: The relative gradient norm of each layer group.
        thawed: The layer groups that train from here on, and were frozen before; none if it would not pay.
    """

    step: int
    evidence: dict[str, float]
    thawed: list[str]


class AdaptiveUnfreezing(ProgressiveUnfreezing):
    """Trains the head, and decides at the end of each phase how deep to thaw.

    The evidence is the relative gradient norm of each layer group: the norm of its gradient in the batch that begins,
    divided by the norm of its weights. A frozen group pays if it has at least a share of the largest below the head.
    The head is no measure: it trains anyway, and the norm of new weights says nothing of those that were pretrained.
    The deepest group that pays thaws, with all between it and the head. If none pays, the phase begins anew, and ends
    with another decision. Learning rates are those of the optimizer. A lower one for lower groups, by ``lr_decay``,
    helps.

    Decisions are in every checkpoint, so a resumed run goes on as if it had not stopped. All ranks decide by the mean
    of their evidence. Loggers get the evidence as ``evidence/<group>``, and the record of the run the decisions. The
    plan shows the deepest course. A decision costs one training step, and the memory of a second model for its time.

    Args:
        layer_groups: See ``ProgressiveUnfreezing``, as for the arguments below but the threshold.
        until: When each phase ends. By default where ``val/loss`` has not improved for two validations, and after a
            fifth of the training at the latest.
        threshold: Share of the largest relative gradient norm below the head that a group needs to thaw, from 0 (all)
            to 1.
        rest: How to treat parameters in no layer group.
        frozen_norm_layers: How norm layers of frozen groups behave.
        thaw_frozen: Whether parameters that do not require grad before the fit are trained, too.
        parameters: Which parameters below the head may train.

    Raises:
        UserError: If the threshold is out of range. On ``fit``, if the strategy divides the weights over the ranks, or
            the module steps its optimizers by hand, and where ``ProgressiveUnfreezing`` does.

    Source:
        The evidence is that of Auto-RGN: Lee et al., Surgical fine-tuning improves adaptation to distribution shifts,
        2023. There all layers train from the start, each at its share of the learning rate.
    """

    def __init__(
        self,
        layer_groups: list[str] | dict[str, list[str]] | None = None,
        until: Until | dict[str, Any] | None = None,
        threshold: float = 0.3,
        rest: Literal["frozen", "trainable"] | None = None,
        frozen_norm_layers: Literal["eval", "tracking"] = "eval",
        thaw_frozen: bool = False,
        parameters: list[str] | None = None,
    ) -> None:
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold is {threshold}: expected a share from 0 to 1")
        if until is None:
            until = {"plateau": {"monitor": "val/loss", "patience": 2}, "fraction": 0.2}
        self.threshold = threshold
        super().__init__(
            layer_groups=layer_groups,
            schedule="gradual",
            until=until,
            rest=rest,
            frozen_norm_layers=frozen_norm_layers,
            thaw_frozen=thaw_frozen,
            parameters=parameters,
        )
        self.resolve = partial(self._resolve_decided, self.resolve)
        self._settings |= {"threshold": str(threshold)}

    def _reset(self) -> None:
        super()._reset()
        self.decisions: list[Decision] = []
        self._batch: Any = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begins without decisions. A checkpoint's state is loaded after this."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            refuse_divided_weights(self, trainer)
            if not pl_module.automatic_optimization:
                raise UserError(
                    f"AdaptiveUnfreezing takes gradients of a training step, and {type(pl_module).__name__} steps its"
                    " optimizers by hand: use ProgressiveUnfreezing"
                )

    def state_dict(self) -> dict[str, Any]:
        """Returns the decisions too."""
        return super().state_dict() | {"decisions": [vars(decision) for decision in self.decisions]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a checkpoint's decisions."""
        super().load_state_dict(state_dict)
        self.decisions = [Decision(**decision) for decision in state_dict["decisions"]]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Decides by this batch, if the phase is over."""
        self._batch = batch
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._batch = None

    def _begin_next_phase(self, trainer: pl.Trainer, now: Position) -> None:
        groups = {name: group for name, group in self.groups.items() if group.parameters}
        self._state.watch.restore_best(trainer)  # the evidence is that of the weights which train on
        evidence = relative_gradient_norms(trainer, groups, self._batch)
        if not all(map(math.isfinite, evidence.values())):  # such a batch is skipped, and the next one decides
            return
        below = {name for phase in self.phases[1:] for name in map(str, phase.groups)}  # neither the head nor the rest
        largest = max((evidence[name] for name in groups if name in below), default=0.0)
        bar = self.threshold * (largest or math.inf)  # without a gradient, nothing pays
        frozen = {name for phase in self.phases[self.phase_index + 1 :] for name in map(str, phase.groups)}
        pays = [place for place, name in enumerate(groups) if name in frozen and evidence[name] >= bar]
        # With the deepest that pays, all above it: what it learns is read by these.
        thawed = [name for name in [*groups][min(pays) :] if name in frozen] if pays else []
        decision = Decision(now.step, evidence, thawed)
        self.decisions.append(decision)
        _say(trainer, decision, bar, now)
        if decision.thawed:
            self._schedule = self._decided(self._resolved)
            super()._begin_next_phase(trainer, now)
        else:
            self._state.start, self._state.watch = now, PlateauWatch()
            self._not_before = self._length.not_before(self.phase, now)

    def _resolve_decided(self, resolve: Any, module: nn.Module) -> ResolvedSchedule:
        return self._decided(resolve(module))

    def _decided(self, resolved: ResolvedSchedule) -> ResolvedSchedule:
        """Puts the decided phases in the place of those that thaw one group after the other."""
        thawed = [decision.thawed for decision in self.decisions if decision.thawed]
        known = {name for names in thawed for name in names}
        head, *later = resolved.phases
        singles = [name for phase in later for name in map(str, phase.groups) if name not in known]
        phases = [head, *(Phase(names) for names in thawed), *(Phase([name]) for name in singles)]
        until = head.until
        return replace(resolved, phases=[replace(phase, until=until) for phase in phases[:-1]] + phases[-1:])

    def plan_table(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any = None) -> str:
        """Returns the deepest course as a table, with a line that says what is decided."""
        table = super().plan_table(trainer, pl_module, batch)
        return (
            f"{table}\nwhere a phase ends, the layer groups thaw whose relative gradient norm is at least"
            f" {self.threshold:g} of the largest below the head; above is the deepest course, one at a time"
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keeps the decisions for the record. A group that did not pay is not missed."""
        self.outcome = self._resolved.outcome(self.phase_index, trainer.global_step)
        if self.decisions and not self.decisions[-1].thawed:
            self.outcome["because"] = None
        self.outcome["decisions"] = [vars(decision) for decision in self.decisions]
        say_missed(self.outcome)


def _say(trainer: pl.Trainer, decision: Decision, bar: float, now: Position) -> None:
    """Logs a decision and prints why."""
    for logger in trainer.loggers:
        logger.log_metrics({f"evidence/{name}": value for name, value in decision.evidence.items()}, step=now.step)
    norms = ", ".join(f"{name} {value:.3g}" for name, value in decision.evidence.items())
    rank_zero_info(
        f"Epoch {now.epoch}, step {now.step}: relative gradient norms {norms}; from {bar:.3g} a group thaws:"
        f" {', '.join(decision.thawed) or 'none'}"
    )
