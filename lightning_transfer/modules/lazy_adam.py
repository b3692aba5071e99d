"""The optimizer Adam, which updates only the rows of an embedding that a batch has used."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adam import adam

from lightning_transfer.errors import UserError


class LazyAdam(Optimizer):
    """Adam that updates only those rows of a parameter that its sparse gradient names.

    Parameters with ordinary gradients are trained by torch's own Adam. A parameter with a sparse gradient, such as the
    embedding of ``LSTMClassifier`` with ``sparse_gradients``, keeps all other rows and their moments as they are. Adam
    moves these rows on by their momentum, which costs as much as a step for the whole table. So the weights are not
    those of Adam. The bias corrections count the steps of the whole parameter, as those of ``torch.optim.SparseAdam``
    do, which takes no other parameters.

    Args:
        params: Parameters or groups, as for any optimizer.
        lr: Learning rate.
        betas: Decay rates of the means of the gradient and of its square.
        eps: Number that is added to the root of the latter.

    Raises:
        UserError: For values out of range.

    Source:
        Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        for name, value in {"lr": lr, "eps": eps}.items():
            if not 0 <= value < float("inf"):
                raise UserError(f"optimizer.{name} is {value}: expected 0 or more")
        if not all(0 <= beta < 1 for beta in betas):
            raise UserError(f"optimizer.betas are {list(betas)}: expected two numbers of at least 0 and below 1")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes a step. Returns the loss that the closure gives, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            whole = [parameter for parameter in trained if not parameter.grad.is_sparse]
            if whole:
                self._update_whole(whole, group)
            for parameter in trained:
                if parameter.grad.is_sparse:
                    self._update_rows(parameter, group)
        return loss

    def _update_whole(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        states = [self._state_of(parameter) for parameter in parameters]
        adam(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )

    def _update_rows(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        gradient = parameter.grad.coalesce()
        rows, values = gradient.indices()[0], gradient.values()
        state, (beta1, beta2) = self._state_of(parameter), group["betas"]
        state["step"] += 1
        mean = state["exp_avg"][rows].lerp_(values, 1 - beta1)
        square = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(values, values, value=1 - beta2)
        state["exp_avg"][rows] = mean
        state["exp_avg_sq"][rows] = square
        steps = float(state["step"])
        divisor = (square / (1 - beta2**steps)).sqrt_().add_(group["eps"])
        parameter.index_add_(0, rows, mean.div_(divisor), alpha=-group["lr"] / (1 - beta1**steps))

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state
