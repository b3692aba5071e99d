"""Adds a penalty on the features of a training batch to its loss, whatever the module."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import LayerGroup
from lightning_transfer.networks.trial_passes import is_trial_pass
from lightning_transfer.transfer.shown_groups import head_above_layers


class FeaturePenalty(pl.Callback):
    """Follows what the head, the last layer group, is given in a training step, and adds a penalty on it to the loss.

    No logged loss has the penalty. Where nothing below the head trains, there is none. A subclass defines ``penalty``.

    Raises:
        UserError: On ``fit``, if the module has several tasks, steps its optimizers by hand, or has no layers below its
            head. In the first step, if the head is given no features.
    """

    _features: Tensor | None = None
    _hooks: list[RemovableHandle]

    def penalty(self, features: Tensor) -> Tensor:
        """Computes the penalty of a batch.

        Args:
            features: float [batch, ...].
        """
        raise NotImplementedError

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Follows what the head is given, and adds the penalty to what the training step returns."""
        name = type(self).__name__
        if (tasks := getattr(pl_module, "all_tasks", None)) is not None:
            raise UserError(
                f"{name} follows one head, and {type(pl_module).__name__} has {len(tasks)}: expected a single task"
            )
        if not pl_module.automatic_optimization:
            raise UserError(
                f"{name} adds to the loss of a training step, and {type(pl_module).__name__} steps its optimizers by"
                " hand: add penalty(features) there"
            )
        head = head_above_layers(trainer, pl_module)
        self._hooks = [module.register_forward_pre_hook(self._keep) for module in self._followed(head)]
        pl_module.training_step = self._penalised(pl_module.training_step, head.name)  # type: ignore[method-assign]

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leaves the module as it was before the fit."""
        if getattr(self, "_hooks", None):
            vars(pl_module).pop("training_step", None)  # another penalty may have left it as it was already
            for hook in self._hooks:
                hook.remove()
        self._hooks = []

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Does so also where the fit fails."""
        self.teardown(trainer, pl_module, "fit")

    def _followed(self, head: LayerGroup) -> list[nn.Module]:
        """Returns the modules whose first input is the features. The first of them that is called counts."""
        return head.modules

    def _forget_batch(self) -> None:
        """Forgets what an earlier batch has left."""
        self._features = None

    def _keep(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self._features is None and inputs and isinstance(inputs[0], Tensor) and not is_trial_pass():
            self._features = inputs[0]

    def _penalised(self, step: Callable[..., Any], head: str) -> Callable[..., Any]:
        @functools.wraps(step)
        def training_step(*arguments: Any, **keywords: Any) -> Any:
            self._forget_batch()
            output = step(*arguments, **keywords)
            features, self._features = self._features, None
            if features is None:
                raise UserError(
                    f"{type(self).__name__} has seen no features, as no module of the layer group {head} was called:"
                    " name the layers that are called, and set model.compile false"
                )
            if not features.requires_grad:  # nothing below the head trains
                return output
            if isinstance(output, Mapping):
                return {**output, "loss": output["loss"] + self.penalty(features)}
            return output if output is None else output + self.penalty(features)

        # Lightning asks the step whether it takes batch_idx, through one wrapper alone.
        training_step.__wrapped__ = getattr(step, "__wrapped__", step)
        return training_step
