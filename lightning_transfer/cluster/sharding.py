"""Divides parameters, gradients and optimizer state over the ranks (FSDP2)."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import group_patterns


class FullyShardedStrategy(ModelParallelStrategy):
    """Divides every layer group of any LightningModule over all ranks, with ``fully_shard`` of torch (FSDP2).

    Each layer group is gathered when it computes, and the parts outside all groups with the whole module. A module with
    a ``configure_model`` of its own divides itself. A checkpoint is one file with whole tensors, as with every other
    strategy, so it resumes on any number of ranks.

    Unlike those of Lightning's strategy, its checkpoints also resume when layers are frozen. Each parameter gets the
    optimizer state that was saved for it, if any.

    Args:
        process_group_backend: ``nccl`` or ``gloo``; by default the one for the device.
    """

    def __init__(self, process_group_backend: str | None = None) -> None:
        super().__init__(
            tensor_parallel_size=1, save_distributed_checkpoint=False, process_group_backend=process_group_backend
        )

    def setup_environment(self) -> None:
        """Puts all ranks into one data-parallel group."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def connect(self, model: LightningModule) -> None:
        """Has Lightning divide the module when it calls ``configure_model``."""
        super().connect(model)
        if not is_overridden("configure_model", model):
            model.configure_model = partial(_shard, model)  # type: ignore[method-assign]

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Loads the part of the weights and optimizer states that this rank holds.

        Raises:
            UserError: For a folder, which is a checkpoint of Lightning's own strategy, saved in parts.
        """
        path = Path(self.broadcast(checkpoint_path))
        if path.is_dir():
            raise UserError(f"checkpoint {path} is a folder of parts: join them by `fabric consolidate {path}`")
        checkpoint: dict[str, Any] = torch.load(path, mmap=True, map_location="cpu", weights_only=True)
        assert self.model is not None
        assert self.lightning_module is not None
        options = StateDictOptions(full_state_dict=True, strict=self.lightning_module.strict_loading)
        set_model_state_dict(self.model, checkpoint["state_dict"], options=options)
        for optimizer, state in zip(self.optimizers, checkpoint.get("optimizer_states", []), strict=False):
            _load_optimizer_state(optimizer, state)
        return checkpoint


def _shard(module: LightningModule) -> None:
    mesh: DeviceMesh | None = module.device_mesh
    if mesh is None:  # no training has begun: the module is only looked at for a plan
        return
    groups = getattr(module, "layer_groups", None)
    paths = {path for paths in group_patterns(groups).values() for path in paths} if groups else set()
    parts = {name: part for name, part in module.named_modules() if name in paths}
    for part in (*parts.values(), module):
        # A test after the fit must not divide a part again. A list of modules has no forward that could gather it.
        if not isinstance(part, FSDPModule | nn.ModuleList):
            fully_shard(part, mesh=mesh["data_parallel"])


def _load_optimizer_state(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    keys = [key for group in saved["param_groups"] for key in group["params"]]
    state = {}
    for key, parameter in zip(keys, parameters, strict=True):
        if key in saved["state"]:
            state[key] = {name: _like(value, parameter) for name, value in saved["state"][key].items()}
    optimizer.load_state_dict({"state": state, "param_groups": saved["param_groups"]})


def _like(value: Any, parameter: Tensor) -> Any:
    if isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape and value.ndim:
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value
