"""Trains embeddings by sparse gradients, which hold only the rows that a batch has used."""

import torch
from torch import nn
from torch.optim import Optimizer

from lightning_transfer.errors import UserError

_TAKERS = (torch.optim.SGD, torch.optim.SparseAdam, torch.optim.Adagrad)


def check_optimizer(optimizer: Optimizer, network: nn.Module) -> None:
    """Checks that an optimizer takes sparse gradients, where an embedding of the network gives such.

    Raises:
        UserError: For an optimizer of torch that does not.
    """
    if not any(module.sparse for module in network.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)):
        return
    is_of_torch = type(optimizer).__module__.startswith("torch.optim")
    if is_of_torch and (not isinstance(optimizer, _TAKERS) or optimizer.defaults.get("weight_decay")):
        raise UserError(
            f"model.optimizer is {type(optimizer).__name__}: expected one that takes the sparse gradients of the"
            " network's embedding, such as lightning_transfer.LazyAdam, or torch.optim.SGD without weight_decay; or set"
            " network.sparse_gradients to false"
        )


def has_sparse_gradients(optimizer: Optimizer) -> bool:
    """Tells whether a gradient of the optimizer's parameters is sparse."""
    return any(p.grad is not None and p.grad.is_sparse for group in optimizer.param_groups for p in group["params"])


def clip(optimizer: Optimizer, value: float, algorithm: str | None) -> None:
    """Clips gradients of which some are sparse, which torch's own functions do not take.

    Args:
        optimizer: Its parameters' gradients are clipped in place.
        value: The largest norm of all gradients together; or the largest number in them with ``value``.
        algorithm: ``norm`` (if not given) or ``value``.
    """
    values = []
    for parameter in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()  # a row that is in it twice counts by its sum
        values.append(parameter.grad.values() if parameter.grad.is_sparse else parameter.grad)
    if algorithm == "value":
        for of_one in values:
            of_one.clamp_(-value, value)
        return
    factor = (value / (torch.nn.utils.get_total_norm(values) + 1e-6)).clamp(max=1)  # as torch.nn.utils.clip_grad_norm_
    for of_one in values:
        of_one.mul_(factor)
