"""What freezing means here: requires_grad, grad and the mode of norm layers, and nothing else."""

from collections.abc import Iterable, Mapping

import lightning.pytorch as pl
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lightning_transfer.errors import UserError
from lightning_transfer.networks.layer_groups import LayerGroup


class FreezableModule:
    """Freezes the layer groups of one module during a fit, and undoes it all afterwards.

    Args:
        groups: The layer groups, as resolved on the module.
        eval_norm_layers: Whether norm layers of frozen groups stand in eval mode: they then use their running
            statistics and leave them as they are.
    """

    def __init__(self, groups: Mapping[str, LayerGroup], eval_norm_layers: bool) -> None:
        self.groups = groups
        self._eval_norm_layers = eval_norm_layers
        self._frozen_norm_layers: dict[int, nn.Module] = {}
        self._original = [(p, p.requires_grad) for group in groups.values() for p in group.parameters.values()]

    def set_trainable(self, names: Iterable[str]) -> bool:
        """Make the parameters of these groups trainable and all others frozen; say whether that changed anything."""
        trainable, changed = set(names), False
        norm_layers: dict[int, nn.Module] = {}
        for name, group in self.groups.items():
            for parameter in group.parameters.values():
                changed |= parameter.requires_grad != (name in trainable)
                parameter.requires_grad_(name in trainable)
                if name not in trainable:
                    # Optimizers skip a parameter without a grad: neither momentum nor weight decay moves it.
                    parameter.grad = None
            if name not in trainable and self._eval_norm_layers:
                norm_layers |= {id(module): module for module in group.modules if _is_norm_layer(module)}
        # One that a trainable group shares trains.
        norm_layers = {key: m for key, m in norm_layers.items() if not any(p.requires_grad for p in m.parameters())}
        for key, module in self._frozen_norm_layers.items():
            if key not in norm_layers:
                module.train()
        # A norm layer that the user keeps in eval mode is left to the user.
        held = self._frozen_norm_layers
        self._frozen_norm_layers = {key: m for key, m in norm_layers.items() if m.training or key in held}
        return changed

    def hold_norm_layers(self) -> None:
        """Put the norm layers of frozen groups into eval mode, whoever has called ``train()`` meanwhile."""
        for module in self._frozen_norm_layers.values():
            if module.training:
                module.eval()

    def restore(self) -> None:
        """Give every parameter and norm layer back as it was found."""
        for parameter, requires_grad in self._original:
            parameter.requires_grad_(requires_grad)
        for module in self._frozen_norm_layers.values():
            module.train()
        self._frozen_norm_layers = {}


def _is_norm_layer(module: nn.Module) -> bool:
    # Layer and group norm have no statistics and do not care about the mode.
    return hasattr(module, "running_mean")


def check_strategy(trainer: pl.Trainer) -> None:
    """Raise if the strategy wraps the module in something that requires_grad must not change under.

    Raises:
        UserError: If the module is wrapped, and not by DistributedDataParallel.
    """
    if not isinstance(trainer.strategy.model, pl.LightningModule | DistributedDataParallel):
        raise UserError(
            "ProgressiveUnfreezing works on one device, with DDP and with FullyShardedStrategy (FSDP2), not with "
            f"{type(trainer.strategy).__name__}; compose configs/hardware/ddp.yaml or fsdp.yaml"
        )


def rebuild_replicas(trainer: pl.Trainer) -> None:
    """Wrap the module in DistributedDataParallel again, where it is wrapped.

    The reducer knows the parameters that required grad when it was built, and no others: without this, a group thawed
    later is never averaged over the ranks and the replicas drift apart.
    """
    strategy = trainer.strategy
    wrapper = strategy.model
    if not isinstance(wrapper, DistributedDataParallel):
        return
    # The old reducer's hooks sit on the parameters' gradient accumulators and would reduce every gradient twice.
    wrapper._remove_autograd_hooks()  # type: ignore[no-untyped-call]
    strategy.model = trainer.lightning_module
    del wrapper
    if hasattr(strategy, "_pl_static_graph_delay_done"):
        # With a static graph and manual optimization, Lightning flushes the first iteration of each reducer.
        strategy._pl_static_graph_delay_done = False
    strategy.configure_ddp()  # type: ignore[attr-defined]
