"""Joins the gradients of several tasks where these disagree: computed for each task, and aggregated by torchjd."""

from collections.abc import Sequence
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn

from lightning_transfer.errors import UserError, require_library
from lightning_transfer.lightning_internals import divides_weights

Balancing = Literal["upgrad", "mgda", "aligned_mtl"]

# All of them draw nothing, so that equal gradients on all processes give equal results.
_AGGREGATORS: dict[str, str] = {"upgrad": "UPGrad", "mgda": "MGDA", "aligned_mtl": "AlignedMTL"}


class GradientBalancing:
    """Puts one gradient of the shared parameters in the place of the sum of those of the tasks.

    Args:
        name: The way: ``upgrad`` (Quinton and Rey, 2024: the mean of the gradients, each projected so that it harms no
            task), ``mgda`` (Sener and Koltun, 2018: the shortest convex combination) or ``aligned_mtl`` (Senushkin et
            al., 2023: gradients made orthogonal and of equal length).

    Raises:
        UserError: For another name, and if torchjd is not installed.
    """

    def __init__(self, name: str) -> None:
        if name not in _AGGREGATORS:
            known = ", ".join(["fixed", "uncertainty", *_AGGREGATORS])
            raise UserError(f"model.weighting is {name}: expected one of {known}")
        require_library("torchjd", f"model.weighting {name}")
        if name == "upgrad":
            require_library("quadprog", "model.weighting upgrad", "torchjd")
        from torchjd import aggregation

        self.name = name
        self._aggregate: Any = getattr(aggregation, _AGGREGATORS[name])()

    def check(self, trainer: L.Trainer) -> None:
        """Refuses trainers that change gradients before they are known, or divide them.

        Raises:
            UserError: For accumulated gradients, float16, and a strategy that divides the weights.
        """
        if trainer.accumulate_grad_batches != 1:
            given = trainer.accumulate_grad_batches
            raise UserError(f"trainer.accumulate_grad_batches is {given}: expected 1 with model.weighting {self.name}")
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise UserError(f"trainer.precision is 16-mixed: expected bf16-mixed with model.weighting {self.name}")
        if divides_weights(trainer):
            kind = type(trainer.strategy).__name__
            raise UserError(f"trainer.strategy is {kind}: expected ddp with model.weighting {self.name}")

    @torch.no_grad()
    def write(self, gradients: Tensor, shared: Sequence[nn.Parameter]) -> None:
        """Writes the joint gradient into the parameters.

        Args:
            gradients: float [tasks, numbers of the parameters], the same on all processes.
            shared: The parameters.
        """
        joint: Tensor = self._aggregate(gradients.float())
        for parameter, part in zip(shared, torch.split(joint, [one.numel() for one in shared]), strict=True):
            if parameter.grad is None or parameter.grad.is_sparse:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.copy_(part.view_as(parameter))  # in place: it may be a view of what DDP sends


def gradients_of(losses: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> Tensor:
    """Computes the gradient of each loss, and keeps the graph for another.

    Args:
        losses: Scalars.
        parameters: Parameters that train.

    Returns:
        float [losses, numbers of all parameters]; zeros where a loss does not depend on a parameter.
    """
    rows = []
    for loss in losses:
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        filled = [torch.zeros_like(one) if grad is None else grad for one, grad in zip(parameters, found, strict=True)]
        rows.append(torch.cat([(grad.to_dense() if grad.is_sparse else grad).flatten() for grad in filled]))
    return torch.stack(rows)
