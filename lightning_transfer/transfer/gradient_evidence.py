"""Measures by gradients which layer groups have something to learn, without a trace in the training."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

from lightning_transfer.networks.layer_groups import LayerGroup

_TINY = torch.finfo(torch.float32).tiny  # stands for the norm of weights that are zero


def relative_gradient_norms(trainer: pl.Trainer, groups: Mapping[str, LayerGroup], batch: Any) -> dict[str, float]:
    """Measures the norm of each layer group's gradient, divided by the norm of its weights.

    The training step runs on a copy of the module and of the batch, in which all groups require grad, and neither logs
    nor draws from the random generators. All ranks must call this together, and get the mean over ranks.

    Args:
        trainer: The trainer, in a fit with automatic optimization.
        groups: The layer groups by name.
        batch: A training batch on the module's device.

    Returns:
        The relative gradient norm by layer group; 0 for one that the loss does not depend on.

    Source:
        Lee et al., Surgical fine-tuning improves adaptation to distribution shifts, 2023.
    """
    with isolate_rng(), torch.compiler.set_stance("force_eager"), trainer.precision_plugin.train_step_context():
        twin, batch = copy.deepcopy(trainer.lightning_module), copy.deepcopy(batch)
        vars(twin).pop("training_step", None)  # a penalty's, which would still run the module itself
        twin.trainer = trainer
        twin.log = twin.log_dict = lambda *_, **__: None  # type: ignore[method-assign, assignment]
        parameters = {name: [twin.get_parameter(path) for path in group.parameters] for name, group in groups.items()}
        flat = [parameter.requires_grad_(True) for held in parameters.values() for parameter in held]
        takes_index = is_param_in_hook_signature(twin.training_step, "batch_idx", min_args=2)
        output: Any = twin.training_step(*((batch, 0) if takes_index else (batch,)))
        loss: Tensor = output["loss"] if isinstance(output, Mapping) else output
        gradients = iter(torch.autograd.grad(loss, flat, allow_unused=True))
    norms = [
        _norm([gradient for _ in held if (gradient := next(gradients)) is not None]) / max(_norm(held), _TINY)
        for held in parameters.values()
    ]
    reduced: Any = trainer.strategy.reduce(torch.tensor(norms, device=twin.device), reduce_op="mean")
    return dict(zip(parameters, reduced.tolist(), strict=True))


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.detach().float().square().sum()) for tensor in tensors))
