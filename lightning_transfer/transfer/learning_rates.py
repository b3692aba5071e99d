"""Scales learning rates for the length of one optimizer step, so that schedulers never see it."""

from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer


class LearningRateScaler:
    """Multiplies the learning rates of an optimizer while it steps, and puts them back.

    Schedulers such as ExponentialLR compute a learning rate from the last one; a factor left in place would compound.

    Args:
        optimizer: The optimizer; its parameter groups must not change.
        group_factors: One constant factor per parameter group.
        factor: Gives the factor of the step about to be taken, common to all groups.
    """

    def __init__(self, optimizer: Optimizer, group_factors: Sequence[float], factor: Callable[[], float]) -> None:
        self._optimizer = optimizer
        self._group_factors = group_factors
        self._factor = factor
        self._unscaled: list[Any] = []
        self._hooks = [
            optimizer.register_step_pre_hook(self._scale),
            optimizer.register_step_post_hook(self._restore),
            # Lightning computes the loss within the step; a checkpoint written by a signal handler or after an
            # exception there must hold the learning rates unscaled.
            optimizer.register_state_dict_pre_hook(self._restore),
        ]

    def remove(self) -> None:
        """Leave the optimizer as it was found."""
        self._restore()
        for hook in self._hooks:
            hook.remove()

    def _scale(self, *_: Any) -> None:
        self._restore()
        factor = self._factor()
        self._unscaled = [group["lr"] for group in self._optimizer.param_groups]
        for group, group_factor in zip(self._optimizer.param_groups, self._group_factors, strict=True):
            group["lr"] = group["lr"] * factor * group_factor

    def _restore(self, *_: Any) -> None:
        for group, lr in zip(self._optimizer.param_groups, self._unscaled, strict=False):
            group["lr"] = lr
        self._unscaled = []
