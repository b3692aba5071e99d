"""Keeps a fine-tuned network from features that do not transfer: batch spectral shrinkage, BSS."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import REST
from lightning_transfer.transfer.shown_groups import shown_groups


class SpectralShrinkage(pl.Callback):
    """Adds a penalty to the loss: strength times the squared smallest singular values of a training batch's features.

    The features are what the head, the last layer group, is given. Directions in which they hardly vary carry little
    that transfers, and are shrunk. No logged loss has the penalty. What is below a frozen body stays as it is.

    Args:
        strength: Weight of the penalty.
        count: How many singular values are penalised, the smallest ones of each batch.

    Raises:
        UserError: If a value is out of range. On ``fit``, if the module steps its optimizers by hand. In the first
            step, if the head is given no features.

    Source:
        Chen et al., Catastrophic Forgetting Meets Negative Transfer: Batch Spectral Shrinkage for Safe Transfer
        Learning, 2019.
    """

    def __init__(self, strength: float = 0.001, count: int = 1) -> None:
        if not strength >= 0:
            raise UserError(f"strength is {strength}: expected 0 or more")
        if count < 1:
            raise UserError(f"count is {count}: expected at least 1")
        self.strength, self.count = strength, count
        self._features: Tensor | None = None
        self._hooks: list[RemovableHandle] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Follows what the head is given, and adds the penalty to what the training step returns."""
        if not pl_module.automatic_optimization:
            raise UserError(
                f"SpectralShrinkage adds to the loss of a training step, and {type(pl_module).__name__} steps its"
                " optimizers by hand: add penalty(features) there"
            )
        groups = shown_groups(trainer, pl_module)
        head = groups[[name for name in groups if name != REST][-1]]
        self._hooks = [module.register_forward_pre_hook(self._keep) for module in head.modules]
        pl_module.training_step = self._penalised(pl_module.training_step, head.name)  # type: ignore[method-assign]

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leaves the module as it was before the fit."""
        if self._hooks:
            del pl_module.training_step
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Does so also where the fit fails."""
        self.teardown(trainer, pl_module, "fit")

    def penalty(self, features: Tensor) -> Tensor:
        """Computes the penalty of a batch.

        Args:
            features: float [batch, ...].
        """
        values = torch.linalg.svdvals(features.flatten(1).float())
        penalty: Tensor = self.strength * values[-self.count :].square().sum()
        return penalty

    def _keep(self, _: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if self._features is None and inputs and isinstance(inputs[0], Tensor):
            self._features = inputs[0]

    def _penalised(self, step: Callable[..., Any], head: str) -> Callable[..., Any]:
        @functools.wraps(step)
        def training_step(*arguments: Any, **keywords: Any) -> Any:
            self._features = None
            output = step(*arguments, **keywords)
            features, self._features = self._features, None
            if features is None:
                raise UserError(
                    f"SpectralShrinkage has seen no features, as no module of the layer group {head} was called: name"
                    " the layers that are called, and set model.compile false"
                )
            if not features.requires_grad:  # nothing below the head trains
                return output
            if isinstance(output, Mapping):
                return {**output, "loss": output["loss"] + self.penalty(features)}
            return output if output is None else output + self.penalty(features)

        return training_step
