"""Pulls what is fine-tuned towards where it began: L2-SP."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_transfer.errors import UserError
from lightning_transfer.lightning_internals import divides_weights, gradient_scale
from lightning_transfer.transfer.shown_groups import names_below_head
from lightning_transfer.transfer.value_checks import check_amount


class KeptStart(pl.Callback):
    """Keeps tensors as they were when something began to train. They are in every checkpoint, and never read again.

    Raises:
        UserError: On ``fit``, if the strategy divides the weights over the ranks.
    """

    _start: dict[str, Tensor]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forgets an earlier fit. A checkpoint's start is loaded after this."""
        if stage == "fit":
            refuse_divided_weights(self, trainer)
            self._start = {}

    def state_dict(self) -> dict[str, Any]:
        """Returns the start by name; empty as long as nothing that it is kept for has trained."""
        return {"start": self._start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a checkpoint's start."""
        self._start = state_dict["start"]


class StartingPointPenalty(KeptStart):
    """Adds the gradient of a penalty, strength / 2 times the squared distance of the weights from where they began.

    It acts on all layers below the head, each from the first step that trains it. What is frozen is left alone. The
    penalty comes before gradients are clipped, and no logged loss has it. The starting point is in every checkpoint.

    Args:
        strength: Weight of the penalty.

    Raises:
        UserError: If the strength is out of range. On ``fit``, if the strategy divides the weights over the ranks, the
            network has no layers below its head, or a gradient is sparse.

    Source:
        L2-SP: Li, Grandvalet and Davoine, Explicit Inductive Bias for Transfer Learning with Convolutional Networks,
        2018. The head has no penalty here. There it has one towards zero, for which an optimizer's weight decay serves.
    """

    def __init__(self, strength: float = 0.1) -> None:
        check_amount("strength", strength)
        self.strength = strength
        self._start = {}
        self._names: dict[int, str] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finds the weights below the head."""
        self._names = names_below_head(trainer, pl_module)
        self._start = {name: value.to(pl_module.device) for name, value in self._start.items()}

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Adds the gradient of the penalty to those of the weights that train."""
        held = (parameter for group in optimizer.param_groups for parameter in group["params"])
        pulled = [
            (self._names[id(parameter)], parameter, parameter.grad)
            for parameter in held
            if parameter.grad is not None and id(parameter) in self._names
        ]
        if not pulled:
            return
        for name, parameter, grad in pulled:
            if grad.is_sparse:
                raise UserError(f"the gradient of {name} is sparse, which L2-SP would fill: set sparse_gradients false")
            if name not in self._start:
                self._start[name] = parameter.clone()
        _, parameters, grads = map(list, zip(*pulled, strict=True))
        distances = torch._foreach_sub(parameters, [self._start[name] for name, _, _ in pulled])
        torch._foreach_add_(grads, distances, alpha=self.strength * gradient_scale(trainer, optimizer))


def refuse_divided_weights(callback: pl.Callback, trainer: pl.Trainer) -> None:
    """Refuses a strategy whose ranks hold a part of each weight.

    Raises:
        UserError: If the strategy divides the weights. It names the callback.
    """
    if divides_weights(trainer):
        raise UserError(
            f"{type(callback).__name__} does not go with {type(trainer.strategy).__name__}, which divides the weights:"
            " compose configs/hardware/ddp.yaml"
        )
