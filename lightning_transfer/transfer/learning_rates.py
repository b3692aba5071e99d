"""Scales learning rates during one optimizer step alone, so that schedulers never see the scaled ones."""

from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer

from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import REST
from lightning_transfer.transfer.resolution import ResolvedSchedule


class LearningRateScaler:
    """Multiplies the learning rates of an optimizer while it steps, and puts them back.

    Schedulers such as ExponentialLR compute a learning rate from the last one. A factor left in place would compound.

    Args:
        optimizer: The optimizer. Its parameter groups must not change.
        group_factors: One constant factor per parameter group.
        factor: Gives the factor of the next step, common to all groups.
    """

    def __init__(self, optimizer: Optimizer, group_factors: Sequence[float], factor: Callable[[], float]) -> None:
        self.optimizer = optimizer
        self._group_factors = group_factors
        self._factor = factor
        self._unscaled: list[Any] = []
        self._hooks = [
            optimizer.register_step_pre_hook(self._scale),
            optimizer.register_step_post_hook(self._restore),
            # Lightning computes the loss within the step, where a signal handler or an exception may write a
            # checkpoint. It must hold the unscaled learning rates, while the step goes on with the scaled ones.
            optimizer.register_state_dict_post_hook(self._unscale_state),
        ]

    def learning_rates(self) -> list[float]:
        """Returns the learning rate of each parameter group at the next step."""
        if self._unscaled:
            return [group["lr"] for group in self.optimizer.param_groups]
        factor = self._factor()
        groups = zip(self.optimizer.param_groups, self._group_factors, strict=True)
        return [group["lr"] * factor * group_factor for group, group_factor in groups]

    def remove(self) -> None:
        """Leaves the optimizer as it was before."""
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
    """Scales the learning rates of every optimizer, where a schedule asks for it.

    Args:
        optimizers: The optimizers.
        resolved: The schedule.
        lr_decay: The factor between neighbouring layer groups, if any.
        factor: Gives the factor of the next step.

    Returns:
        A scaler for each optimizer. The list is empty where nothing is to be scaled.
    """
    is_scaled = any(phase.lr_multiplier != 1 or phase.lr_schedule != "constant" for phase in resolved.phases)
    if not is_scaled and lr_decay is None:
        return []
    return [
        LearningRateScaler(optimizer, decay_factors(resolved, optimizer, lr_decay), factor) for optimizer in optimizers
    ]


def decay_factors(resolved: ResolvedSchedule, optimizer: Optimizer, lr_decay: float | None) -> list[float]:
    """Returns the factor of each parameter group for a learning rate that decays with depth; 1 without a decay.

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
                f"lr_decay is {lr_decay:g}: expected one optimizer parameter group per layer group, as "
                "parameter_groups(self, ...) builds them in configure_optimizers"
            )
        factors.append(lr_decay ** -found.pop())
    if len({group.get("initial_lr", group["lr"]) for group in optimizer.param_groups}) > 1:
        raise UserError(
            f"lr_decay={lr_decay:g} on the callback, but the optimizer's groups have learning rates of their own "
            "already; drop one of the two (parameter_groups has its own lr_decay)"
        )
    return factors
