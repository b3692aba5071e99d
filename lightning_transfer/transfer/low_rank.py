"""Fine-tunes by low-rank updates of frozen weights (LoRA and DoRA, by peft), and merges them at the end."""

import copy
import importlib.metadata
import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from lightning_transfer.errors import UserError, in_one_line, require_library
from lightning_transfer.files import replacing
from lightning_transfer.networks.layer_groups import LayerGroup, some_of
from lightning_transfer.transfer.interpolation import WeightInterpolation
from lightning_transfer.transfer.shown_groups import head_of, own_groups, unfreezing_of
from lightning_transfer.transfer.starting_point import refuse_divided_weights
from lightning_transfer.transfer.value_checks import check_count

Weights = dict[str, Tensor]
Hook = Callable[[dict[str, Any]], None]

# Layers that compute as torch's own do. Another forward may scale or normalise the weight, to which a sum is no update.
_FORWARDS = (nn.Linear.forward, nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)
_CONSTRUCTORS = (nn.Conv1d.__init__, nn.Conv2d.__init__, nn.Conv3d.__init__)
# Layers that read the weights of those inside them, and do not call these: always, or in evaluation.
_READ_BY_WEIGHT = {
    "MultiheadAttention",
    "TransformerEncoderLayer",
    "ShiftedWindowAttention",
    "ShiftedWindowAttentionV2",
}
_OLDEST = (0, 21)


class LowRankAdaptation(pl.Callback):
    """Adds a trainable product of two small matrices to each linear layer and convolution below the head in a fit.

    All other weights below the head are frozen to the last bit. ``ProgressiveUnfreezing`` with ``parameters:
    ['*.lora_*']`` and ``thaw_frozen`` keeps their norm layers as they are, too. After the fit, the module is a plain
    network with the products merged into its weights. So is the ``state_dict`` of every checkpoint. What a resumed run
    needs is beside it, as ``adapted_state_dict``. The adapters of the best checkpoint are also saved on their own, in
    peft's layout with the head, in the folder ``<checkpoint>_adapter`` beside it.

    Convolutions in groups, with dilation or with another padding than zeros, layers that share their weight, and those
    with a forward, a constructor or a hook of their own get no product. Nor do layers inside ``nn.MultiheadAttention``,
    ``nn.TransformerEncoderLayer`` and torchvision's Swin, which read the weights themselves.

    Args:
        rank: Rank of the products.
        alpha: Factor of the products, which is divided by the rank.
        dora: Whether to split weights into magnitude and direction, and update the direction by the product (DoRA).

    Raises:
        UserError: If peft is missing or too old, or the rank is below 1. On ``fit``, if the network has no layer to
            adapt or a recurrent one, an average of the weights comes before, or the strategy divides the weights.

    Source:
        Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2022. Liu et al., DoRA: Weight-Decomposed
        Low-Rank Adaptation, 2024.
    """

    def __init__(self, rank: int = 8, alpha: int = 16, dora: bool = False) -> None:
        check_count("rank", rank)
        check_count("alpha", alpha)
        self.rank, self.alpha, self.dora = rank, alpha, dora
        self._tuner: Any = None  # peft's, around the network in a fit
        self._prefix = ""
        self._head: LayerGroup | None = None
        self._required_grad: dict[str, bool] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Puts the adapters into the network, whose starting weights are loaded. A checkpoint is loaded after this."""
        if stage != "fit":
            return
        _require_peft()
        refuse_divided_weights(self, trainer)
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        refuse_mean_of_adapters(callbacks)
        if any(isinstance(callback, WeightAveraging) for callback in callbacks[: callbacks.index(self)]):
            raise UserError(
                "the average of the weights comes before LowRankAdaptation, and would have no adapters: compose"
                " configs/strategies/lora.yaml before configs/options/ema.yaml"
            )
        self._required_grad = {name: p.requires_grad for name, p in pl_module.named_parameters()}
        network = getattr(pl_module, "network", None)
        root, self._prefix = (network, "network.") if isinstance(network, nn.Module) else (pl_module, "")
        self._head = head_of(own_groups(pl_module))
        assert self._head is not None  # what trains has children
        self._tuner = self._adapt(root, self._head)
        for name, parameter in pl_module.named_parameters():
            if name in self._head.parameters:
                parameter.requires_grad_(self._required_grad[name])
        pl_module.on_save_checkpoint = self._merge_saved(pl_module.on_save_checkpoint)  # type: ignore[method-assign, assignment]
        pl_module.on_load_checkpoint = self._take_adapted(pl_module)  # type: ignore[method-assign, assignment]

    def _adapt(self, root: nn.Module, head: LayerGroup) -> Any:
        from peft import LoraConfig, LoraModel

        names = [re.escape(name) for name in _layers_to_adapt(root, head)]
        config = LoraConfig(
            r=self.rank, lora_alpha=self.alpha, target_modules=f"({'|'.join(names)})", use_dora=self.dora
        )
        return LoraModel(root, config, "default")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Merges the products into the weights, and leaves a plain network."""
        if self._tuner is None:
            return
        if (unfreezing := unfreezing_of(trainer)) is not None:
            unfreezing.teardown(trainer, pl_module, stage)  # first: it gives back what it has found, a frozen base
        self._tuner.merge_and_unload()
        self._tuner = None
        del pl_module.on_save_checkpoint, pl_module.on_load_checkpoint
        for name, parameter in pl_module.named_parameters():
            parameter.requires_grad_(self._required_grad[name])

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leaves a plain network also where the fit fails."""
        self.teardown(trainer, pl_module, "fit")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves the adapters of the best checkpoint on their own."""
        saved: list[Any] = [*trainer.checkpoint_callbacks]
        best = next((path for callback in saved if (path := getattr(callback, "best_model_path", ""))), None)
        if best and trainer.is_global_zero:
            try:
                checkpoint = torch.load(best, map_location="cpu", mmap=True, weights_only=True)
            except pickle.UnpicklingError as error:  # what a module of the user's has put into it is not executed
                rank_zero_warn(
                    f"the adapters are not saved on their own: {best} is no plain checkpoint ({in_one_line(error)})"
                )
                return
            self._save_adapters(checkpoint["adapted_state_dict"], Path(best))

    def _save_adapters(self, weights: Weights, checkpoint: Path) -> None:
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        assert self._head is not None
        network, folder = self._tuner.model, checkpoint.with_name(f"{checkpoint.stem}_adapter")
        own = {name.removeprefix(self._prefix): value for name, value in weights.items()}
        adapters = get_peft_model_state_dict(network, {name: own[name] for name in network.state_dict()})
        heads = [path for path, module in network.named_modules() if path and module in self._head.modules]
        head = {name: value for name, value in own.items() if any(name.startswith(f"{path}.") for path in heads)}
        tensors = {f"base_model.model.{name}": value.contiguous() for name, value in {**adapters, **head}.items()}
        config = copy.copy(self._tuner.peft_config["default"])
        config.modules_to_save = [path for path in heads if path.rpartition(".")[0] not in heads]
        with replacing(folder) as partial:
            partial.mkdir()
            file = partial / "adapter_model.safetensors"
            save_file(tensors, file)
            file.chmod(partial.stat().st_mode & 0o666)  # the library lets the owner alone read it
            config.save_pretrained(partial)

    def _merge_saved(self, hook: Hook) -> Hook:
        """Follows the module's own hook, which Lightning calls after those of the callbacks: the average is there."""

        def save(checkpoint: dict[str, Any]) -> None:
            hook(checkpoint)
            checkpoint["adapted_state_dict"], checkpoint["adapters_alpha"] = checkpoint["state_dict"], self.alpha
            checkpoint["state_dict"] = self._merged(checkpoint["state_dict"])

        return save

    def _take_adapted(self, pl_module: pl.LightningModule) -> Hook:
        """Precedes the module's own hook, after which Lightning loads the ``state_dict``."""
        hook, expected = pl_module.on_load_checkpoint, {name: v.shape for name, v in pl_module.state_dict().items()}

        def load(checkpoint: dict[str, Any]) -> None:
            found = checkpoint.get("adapted_state_dict", {})
            is_same = {name: value.shape for name, value in found.items()} == expected
            if not is_same or checkpoint.get("adapters_alpha", self.alpha) != self.alpha:
                raise UserError(
                    f"the checkpoint's adapters are not those of LowRankAdaptation with rank {self.rank}, alpha"
                    f" {self.alpha} and dora {self.dora}: resume with the settings that the run began with, or start"
                    " from it by --init_from"
                )
            checkpoint["state_dict"] = found
            hook(checkpoint)

        return load

    def _merged(self, weights: Weights) -> Weights:
        """Returns the weights of the plain network that computes the same."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        plain = dict(weights)
        for path, layer in self._tuner.model.named_modules():
            if isinstance(layer, BaseTunerLayer):
                name = f"{self._prefix}{path}."
                own = {key.removeprefix(name): plain.pop(key) for key in weights if key.startswith(name)}
                twin: Any = copy.deepcopy(layer)
                twin.load_state_dict(own)
                twin.merge()
                plain |= {f"{name}{key}": value for key, value in twin.get_base_layer().state_dict().items()}
        return plain


def adapt_ahead(trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
    """Puts adapters into a module that is looked at before a fit, as :meth:`LowRankAdaptation.setup` does in one."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, LowRankAdaptation):
            callback.setup(trainer, pl_module, "fit")


def refuse_mean_of_adapters(callbacks: Sequence[pl.Callback]) -> None:
    """Refuses adapters whose weights would be interpolated.

    Raises:
        UserError: If both callbacks are there.
    """
    if all(any(isinstance(one, kind) for one in callbacks) for kind in (LowRankAdaptation, WeightInterpolation)):
        raise UserError(
            "trainer.callbacks has LowRankAdaptation and WeightInterpolation: expected one of them, as a mean of"
            " adapters is not that of the networks; leave one out"
        )


def _layers_to_adapt(root: nn.Module, head: LayerGroup) -> list[str]:
    """Lists the paths of the layers below the head to which a product can be added.

    Raises:
        UserError: If there is none, or a recurrent one, whose weights peft cannot adapt.
    """
    of_head = {id(module) for module in head.modules}
    below = {path: module for path, module in root.named_modules() if path and id(module) not in of_head}
    recurrent = [path for path, module in below.items() if isinstance(module, nn.RNNBase)]
    if recurrent:
        raise UserError(
            f"peft adapts no recurrent layer such as {recurrent[0]}, a {type(below[recurrent[0]]).__name__}: choose"
            " another strategy, for example norm_and_bias"
        )
    by_weight = tuple(f"{path}." for path, module in below.items() if type(module).__name__ in _READ_BY_WEIGHT)
    shared = _shared_layers(root)
    found = [
        path
        for path, module in below.items()
        if not f"{path}.".startswith(by_weight) and path not in shared and _can_be_adapted(module)
    ]
    if not found:
        raise UserError(
            f"{type(root).__name__} has no linear layer or convolution below its head, {head.name}, to adapt; there are"
            f" {some_of(below, limit=6)}: choose another strategy"
        )
    return found


def _shared_layers(root: nn.Module) -> set[str]:
    """Names the layers whose weight is another one's too, or that have two paths: an update of one would be of both."""
    owners: dict[int, list[str]] = {}
    for path, layer in root.named_modules(remove_duplicate=False):
        if isinstance(weight := getattr(layer, "weight", None), Tensor):
            owners.setdefault(id(weight), []).append(path)
    return {path for names in owners.values() if len(names) > 1 for path in names}


def _can_be_adapted(module: Any) -> bool:
    kind = type(module)
    is_plain = kind.forward in _FORWARDS or (kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers."))
    is_plain &= not is_parametrized(module) and not module._forward_pre_hooks  # which may compute the weight anew
    if isinstance(module, nn.modules.conv._ConvNd):  # peft's product knows strides and padding with zeros alone
        is_plain &= {*module.dilation} == {1} and module.groups == 1 and module.padding_mode == "zeros"
        is_plain &= kind.__init__ in _CONSTRUCTORS  # by which peft makes a layer of the same class
    return is_plain


def _require_peft() -> None:
    require_library("peft", "LowRankAdaptation")
    release = importlib.metadata.version("peft")
    if tuple(int(part) for part in release.split(".")[:2]) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise UserError(f"peft is {release}: expected {oldest} or later, for example by pip install 'peft>={oldest}'")
