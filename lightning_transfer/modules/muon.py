"""The optimizer Muon for the filters of convolutions, with SGD for everything else, in one."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_transfer.errors import UserError

_SETTINGS = ("lr", "momentum", "sgd_lr_factor", "sgd_momentum", "weight_decay")  # of a parameter group


class Muon(Optimizer):
    """Orthogonalised momentum for filters, SGD with Nesterov momentum for all other parameters.

    A filter (a parameter of 4 dimensions) is taken as a matrix with a row for each output channel. Its update
    is the nearest orthogonal matrix to its momentum, so that all directions learn alike; before each step it is scaled
    to the Frobenius norm of an orthogonal one, the root of its number of rows, which a norm layer behind it makes up
    for. Use it for convolutions that are followed by norm layers.

    All parameters are in the same groups, so schedulers, checkpoints and layer groups need to know nothing of this.
    torch.optim.Muon has neither filters nor the rest.

    Args:
        params: Parameters or groups, as for any optimizer.
        lr: Learning rate of the filters. Schedulers scale that of the rest along with it.
        momentum: Of the filters.
        sgd_lr: Learning rate of the rest.
        sgd_momentum: Of the rest.
        weight_decay: L2 penalty on the rest.

    Raises:
        UserError: For values out of range.

    Source:
        Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024; as applied to filters in Jordan's
        airbench94_muon.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.24,
        momentum: float = 0.6,
        sgd_lr: float = 0.1,
        sgd_momentum: float = 0.85,
        weight_decay: float = 0.0,
    ) -> None:
        for name, value in {"lr": lr, "sgd_lr": sgd_lr}.items():
            if value <= 0:
                raise UserError(f"{name} is {value}: expected a number above 0")
        for name, value in {"momentum": momentum, "sgd_momentum": sgd_momentum}.items():
            if not 0 < value < 1:
                raise UserError(f"{name} is {value}: expected a number between 0 and 1")
        if weight_decay < 0:
            raise UserError(f"weight_decay is {weight_decay}: expected 0 or more")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "sgd_lr_factor": sgd_lr / lr,
            "sgd_momentum": sgd_momentum,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Takes a step; parameters without a grad stay as they are.

        Args:
            closure: Computes the loss and the grads anew.

        Returns:
            What the closure returns.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group, trained in self._groups_of_one_setting():
            filters = [parameter for parameter in trained if parameter.ndim == 4]
            rest = [parameter for parameter in trained if parameter.ndim != 4]
            if filters:
                self._step_filters(filters, group)
            if rest:
                updates = self._nesterov(rest, group["sgd_momentum"], group["weight_decay"])
                torch._foreach_add_(rest, updates, alpha=-group["lr"] * group["sgd_lr_factor"])
        return loss

    def _groups_of_one_setting(self) -> list[tuple[dict[str, Any], list[Tensor]]]:
        """Joins what groups train where all their settings agree: fewer operations take a step of more parameters."""
        joined: dict[tuple[float, ...], tuple[dict[str, Any], list[Tensor]]] = {}
        for group in self.param_groups:
            _, trained = joined.setdefault(tuple(group[name] for name in _SETTINGS), (group, []))
            trained += [parameter for parameter in group["params"] if parameter.grad is not None]
        return list(joined.values())

    def _step_filters(self, filters: list[Tensor], group: dict[str, Any]) -> None:
        # Not in place: the norms of what is divided over ranks are sums yet to be made.
        scales = torch._foreach_clamp_min(torch._foreach_norm(filters), 1e-7)
        torch._foreach_reciprocal_(scales)
        torch._foreach_mul_(scales, [len(parameter) ** 0.5 for parameter in filters])
        torch._foreach_mul_(filters, scales)
        updates = _orthogonalise_each(self._nesterov(filters, group["momentum"]))
        torch._foreach_add_(filters, updates, alpha=-group["lr"])

    def _nesterov(self, parameters: list[Tensor], momentum: float, weight_decay: float = 0.0) -> tuple[Tensor, ...]:
        """Adds the grads to the momenta, and looks one step ahead."""
        gradients: Any = [parameter.grad for parameter in parameters]
        if weight_decay:
            gradients = torch._foreach_add(gradients, parameters, alpha=weight_decay)
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_mul_(momenta, momentum)
        torch._foreach_add_(momenta, gradients)
        return torch._foreach_add(gradients, momenta, alpha=momentum)


def _orthogonalise_each(updates: Sequence[Tensor]) -> list[Tensor]:
    """Orthogonalises filters, those of one shape together: on a GPU it is the number of operations that takes time."""
    by_shape: dict[torch.Size, list[int]] = {}
    for index, update in enumerate(updates):
        by_shape.setdefault(update.shape, []).append(index)
    results = list(updates)
    for shape, indices in by_shape.items():
        together = orthogonalise(torch.stack([updates[index] for index in indices]).flatten(2))
        for index, result in zip(indices, together, strict=True):
            results[index] = result.reshape(shape)
    return results


def orthogonalise(matrices: Tensor, iterations: int = 3) -> Tensor:
    """Brings all singular values of matrices near 1, to between 0.7 and 1.2 where they were not tiny.

    Args:
        matrices: float [matrices, rows, columns].
        iterations: Steps of the Newton-Schulz iteration.

    Returns:
        Matrices of the same shape and dtype; on a GPU computed in bfloat16.

    Source:
        The quintic iteration of Jordan et al., 2024, with its coefficients.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x.bfloat16() if matrices.is_cuda else x
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        factor = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, factor, x, beta=3.4445)
    result = x.mT if is_tall else x
    return result.to(matrices.dtype)
