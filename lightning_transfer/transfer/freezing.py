"""Freezes layers: their requires_grad and grad, and the mode and buffers of layers that change as they train."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import REST, LayerGroup


class FreezableModule:
    """Freezes the layer groups of one module during a fit, and undoes it all afterwards.

    Args:
        groups: The layer groups, as resolved on the module.
        eval_norm_layers: Whether layers of frozen groups that keep statistics are in eval mode and keep their buffers.
            They are norm layers, spectral norm, and custom layers with buffers.
    """

    def __init__(self, groups: Mapping[str, LayerGroup], eval_norm_layers: bool) -> None:
        self.groups = groups
        self._eval_norm_layers = eval_norm_layers
        self._frozen: list[nn.Parameter] = []
        self._frozen_layers: dict[int, _FrozenLayer] = {}
        self._buffers: list[_HeldBuffer] = []
        self._original = [
            (parameter, parameter.requires_grad)
            for group in groups.values()
            for parameter in (*group.parameters.values(), *group.frozen.values())
        ]

    def set_trainable(self, names: Iterable[str]) -> bool:
        """Makes the parameters of these groups trainable and freezes all others. Returns whether anything changed."""
        trainable, changed = set(names), False
        self._frozen = []
        for name, group in self.groups.items():
            may_train = [(parameter, name in trainable) for parameter in group.parameters.values()]
            for parameter, trains in [*may_train, *((parameter, False) for parameter in group.frozen.values())]:
                changed |= parameter.requires_grad != trains
                parameter.requires_grad_(trains)
                if not trains:
                    self._frozen.append(parameter)
        self.drop_gradients()
        if self._eval_norm_layers:
            frozen = [
                module
                for name in self.groups
                for module in (self._frozen_within(name) if name in trainable else self._modules_of(name))
            ]
            self._freeze_layers({id(module): module for module in frozen if not _trains(module)})
        return changed

    def hold(self) -> None:
        """Freezes again what other code has thawed meanwhile: by ``requires_grad``, ``train()`` or new buffers."""
        for parameter in self._frozen:
            if parameter.requires_grad:
                parameter.requires_grad_(False)
        for layer in self._frozen_layers.values():
            if layer.module.training:
                layer.module.eval()
        for buffer in self._buffers:
            buffer.hold()

    def drop_gradients(self) -> None:
        """Drops the gradients of frozen parameters. Optimizers then skip them, and neither momentum nor decay acts."""
        for parameter in self._frozen:
            if parameter.grad is not None:
                parameter.grad = None

    def restore(self) -> None:
        """Leaves every parameter and layer as it was before the fit."""
        for parameter, requires_grad in self._original:
            parameter.requires_grad_(requires_grad)
        self._freeze_layers({})
        self._frozen = []

    def _frozen_within(self, name: str) -> list[nn.Module]:
        """Lists the layers of a group that trains in part of which nothing trains."""
        frozen = {id(parameter) for parameter in self.groups[name].frozen.values()}
        own = [(module, {id(p) for p in module.parameters(recurse=False)}) for module in self.groups[name].modules]
        return [module for module, parameters in own if parameters and parameters <= frozen]

    def _modules_of(self, name: str) -> list[nn.Module]:
        modules = self.groups[name].modules
        if name != REST:
            return modules
        # Outside the layer groups there are also losses and metrics. Only modules with weights and norm layers are
        # frozen.
        parts = [
            part
            for module in modules
            if any(True for _ in module.parameters()) and not _trains(module)
            for part in module.modules()
        ]
        return [*parts, *filter(_is_norm_layer, modules)]

    def _freeze_layers(self, modules: Mapping[int, nn.Module]) -> None:
        for buffer in self._buffers:
            buffer.hold()
        held: dict[int, _FrozenLayer] = self._frozen_layers
        layers: dict[int, _FrozenLayer] = {}
        for key, module in modules.items():
            if _changes_as_it_trains(module):
                layers[key] = held.pop(key) if key in held else _FrozenLayer(module)
        for layer in held.values():
            layer.thaw()
        self._frozen_layers = layers
        self._buffers = [found for module in modules.values() for found in _held_buffers(module)]


class _FrozenLayer:
    """Keeps a layer in eval mode, whoever calls ``train()``. A layer that was there before stays so afterwards."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._was_training = module.training
        is_script = isinstance(module, torch.jit.ScriptModule)  # takes no hooks
        self._hook = None if is_script else module.register_forward_pre_hook(_stay_in_eval, prepend=True)

    def thaw(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        if self._was_training:
            self.module.train()


def _stay_in_eval(module: nn.Module, _: Any) -> None:
    if module.training:
        module.eval()


@dataclass
class _HeldBuffer:
    """Puts the values of a buffer back where it was written or replaced."""

    module: nn.Module
    name: str
    tensor: Tensor
    values: Tensor
    version: int

    def hold(self) -> None:
        current = self.module._buffers.get(self.name)
        if current is self.tensor and current._version == self.version:
            return
        with torch.no_grad():
            if current is not None and current.shape == self.values.shape and not current.is_inference():
                self.tensor = current  # it may be on another device
            self.tensor.copy_(self.values)
        self.module._buffers[self.name] = self.tensor
        self.version = self.tensor._version


def _held_buffers(module: nn.Module) -> Iterable[_HeldBuffer]:
    """Lists a module's own buffers that its state dict holds. Other buffers, such as caches, may change."""
    for name, buffer in module.named_buffers(recurse=False):
        if name not in module._non_persistent_buffers_set and not is_lazy(buffer) and not buffer.is_inference():
            yield _HeldBuffer(module, name, buffer, buffer.detach().clone(), buffer._version)


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _is_norm_layer(module: nn.Module) -> bool:
    # Layer norm and group norm have no statistics, and behave the same in both modes.
    return hasattr(module, "running_mean")


def _changes_as_it_trains(module: nn.Module) -> bool:
    """Says whether training changes the buffers of a layer: statistics, or the vectors of spectral norm.

    A container keeps its mode, because its own forward may depend on it. So does a recurrent layer, for cuDNN's
    backward.
    """
    if _is_norm_layer(module):
        return True
    is_leaf = next(module.children(), None) is None and not isinstance(module, nn.RNNBase)
    return is_leaf and any(buffer.tensor.is_floating_point() for buffer in _held_buffers(module))


def check_strategy(trainer: pl.Trainer) -> None:
    """Checks that requires_grad may change under the strategy's wrapper of the module.

    Raises:
        UserError: If the module is wrapped by anything but DistributedDataParallel.
    """
    if not isinstance(trainer.strategy.model, pl.LightningModule | DistributedDataParallel):
        raise UserError(
            "ProgressiveUnfreezing works on one device, with DDP and with FullyShardedStrategy (FSDP2), not with "
            f"{type(trainer.strategy).__name__}; compose configs/hardware/ddp.yaml or fsdp.yaml"
        )


def rebuild_replicas(trainer: pl.Trainer) -> None:
    """Wraps the module in DistributedDataParallel again, where it is wrapped.

    The reducer knows only the parameters that required grad when it was built. Otherwise a group thawed later is never
    averaged over the ranks, and the replicas drift apart.
    """
    strategy = trainer.strategy
    wrapper = strategy.model
    if not isinstance(wrapper, DistributedDataParallel):
        return
    # The old reducer's hooks are on the parameters' gradient accumulators, and would reduce every gradient twice.
    wrapper._remove_autograd_hooks()  # type: ignore[no-untyped-call]
    strategy.model = trainer.lightning_module
    del wrapper
    if hasattr(strategy, "_pl_static_graph_delay_done"):
        # With a static graph and manual optimization, Lightning flushes the first iteration of each reducer.
        strategy._pl_static_graph_delay_done = False
    strategy.configure_ddp()  # type: ignore[attr-defined]
