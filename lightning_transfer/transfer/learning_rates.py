"""Scales learning rates for the length of one optimizer step, so that schedulers never see it."""

from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer

from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import REST
from lightning_transfer.transfer.resolution import ResolvedSchedule


class LearningRateScaler:
    """Multiplies the learning rates of an optimizer while it steps, and puts them back.

    Schedulers such as ExponentialLR compute a learning rate from the last one; a factor left in place would compound.

    Args:
        optimizer: The optimizer; its parameter groups must not change.
        group_factors: One constant factor per parameter group.
        factor: Gives the factor of the step about to be taken, common to all groups.
    """

    def __init__(self, optimizer: Optimizer, group_factors: Sequence[float], factor: Callable[[], float]) -> None:
        self.optimizer = optimizer
        self._group_factors = group_factors
        self._factor = factor
        self._unscaled: list[Any] = []
        self._hooks = [
            optimizer.register_step_pre_hook(self._scale),
            optimizer.register_step_post_hook(self._restore),
            # Lightning computes the loss within the step; a checkpoint written by a signal handler or after an
            # exception there must hold the learning rates unscaled, and the step go on with them scaled.
            optimizer.register_state_dict_post_hook(self._unscale_state),
        ]

    def learning_rates(self) -> list[float]:
        """Return the learning rate of each parameter group at the step about to be taken."""
        if self._unscaled:
            return [group["lr"] for group in self.optimizer.param_groups]
        factor = self._factor()
        groups = zip(self.optimizer.param_groups, self._group_factors, strict=True)
        return [group["lr"] * factor * group_factor for group, group_factor in groups]

    def remove(self) -> None:
        """Leave the optimizer as it was found."""
        self._restore()
        for hook in self._hooks:
            hook.remove()

    def _scale(self, *_: Any) -> None:
        self._restore()
        scaled = self.learning_rates()
        self._unscaled = [group["lr"] for group in self.optimizer.param_groups]
        for group, lr in zip(self.optimizer.param_groups, scaled, strict=True):
            group["lr"] = lr

    def _restore(self, *_: Any) -> None:
        for group, lr in zip(self.optimizer.param_groups, self._unscaled, strict=False):
            group["lr"] = lr
        self._unscaled = []

    def _unscale_state(self, _: Optimizer, state: dict[str, Any]) -> None:
        for group, lr in zip(state["param_groups"], self._unscaled, strict=False):
            group["lr"] = lr


def scale_learning_rates(
    optimizers: Sequence[Optimizer], resolved: ResolvedSchedule, lr_decay: float | None, factor: Callable[[], float]
) -> list[LearningRateScaler]:
    """Scale the learning rates of every optimizer, where a schedule asks for it.

    Args:
        optimizers: The optimizers.
        resolved: The schedule.
        lr_decay: The factor between neighbouring layer groups, if any.
        factor: Gives the factor of the step about to be taken.
    """
    is_scaled = any(phase.lr_multiplier != 1 or phase.lr_schedule != "constant" for phase in resolved.phases)
    if not is_scaled and lr_decay is None:
        return []
    return [
        LearningRateScaler(optimizer, decay_factors(resolved, optimizer, lr_decay), factor) for optimizer in optimizers
    ]


def decay_factors(resolved: ResolvedSchedule, optimizer: Optimizer, lr_decay: float | None) -> list[float]:
    """Return the factor of each parameter group for a learning rate that decays with depth; 1 without a decay.

    Raises:
        UserError: If a parameter group spans several layer groups, or the learning rates differ already.
    """
    if lr_decay is None:
        return [1.0] * len(optimizer.param_groups)
    groups = resolved.optimizer_groups
    names = [name for name in groups if name != REST]
    depths = {
        id(parameter): depth
        for depth, name in enumerate(reversed(names))
        for parameter in groups[name].parameters.values()
    }
    factors = []
    for group in optimizer.param_groups:
        found = {depths.get(id(parameter), 0) for parameter in group["params"]}
        if len(found) != 1:
            raise UserError(
                f"lr_decay={lr_decay:g} needs one optimizer parameter group per layer group; build the optimizer "
                "from parameter_groups(self, ...) in configure_optimizers"
            )
        factors.append(lr_decay ** -found.pop())
    if len({group.get("initial_lr", group["lr"]) for group in optimizer.param_groups}) > 1:
        raise UserError(
            f"lr_decay={lr_decay:g} on the callback, but the optimizer's groups have learning rates of their own "
            "already; drop one of the two (parameter_groups has its own lr_decay)"
        )
    return factors
