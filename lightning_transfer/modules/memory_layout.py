"""Whether convolutions have the channels last in memory: as asked for, or where a measurement says that it pays."""

import platform
import time
from copy import deepcopy
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from lightning_transfer.data.cache import load_or_measure
from lightning_transfer.errors import UserError
from lightning_transfer.keywords import Keywords
from lightning_transfer.modules.optimization import OptimizationOptions, OptimizedModule

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
_MARGIN = 0.05  # of the seconds, which channels last has to save
_MOST_IMAGES, _PIXELS = 32, 8 * 224 * 224  # of a batch: small images in small batches tell little of larger ones
_FEWEST_ROUNDS, _LEAST_SECONDS = 2, 0.5  # of the measurement, behind a first round that warms up


class LayoutOptions(OptimizationOptions, total=False):
    """The arguments of :class:`LaidOutModule` beside the network, by name and type."""

    channels_last: bool | Literal["auto"]


class LaidOutModule(OptimizedModule):
    """What modules around a network of images share: how its weights lie in memory.

    Args:
        network: The network.
        channels_last: Whether to lay out convolutions with the channels last in memory: the same network, faster on
            most hardware. With auto, the first fit of a network measures both ways in seconds, and later ones on this
            machine remember it. The channels come last where that saves 5 % or more. A run that goes on keeps its way.
    """

    def __init__(
        self,
        network: nn.Module,
        channels_last: bool | Literal["auto"] = False,
        **kwargs: Keywords[OptimizationOptions],
    ) -> None:
        super().__init__(network, **kwargs)
        self._is_chosen = channels_last == "auto"
        self.is_channels_last = channels_last is True
        if self.is_channels_last:
            network.to(memory_format=torch.channels_last)

    def setup(self, stage: str) -> None:
        """Chooses the layout for a fit, where that was asked for; a checkpoint is loaded after this.

        A strategy that divides weights needs them contiguous, and has them so.
        """
        super().setup(stage)
        if _divides_weights(self.trainer):
            if self.is_channels_last:
                name = type(self.trainer.strategy).__name__
                rank_zero_info(f"channels_last: false and not true, as {name} divides weights, which are contiguous")
                self._lay_out(False)
        elif stage == "fit" and self._is_chosen:
            self._lay_out(_pays(self.network, self.trainer))

    def _lay_out(self, channels_last: bool) -> None:
        self.is_channels_last = channels_last
        self.network.to(memory_format=LAYOUTS["channels_last" if channels_last else "contiguous"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the layout, in which the state of the optimizer is too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["channels_last"] = self.is_channels_last

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on with the saved layout, where none was asked for."""
        super().on_load_checkpoint(checkpoint)
        saved, trainer = checkpoint.get("channels_last"), self._trainer
        is_late = trainer is not None and _divides_weights(trainer)
        if self._is_chosen and isinstance(saved, bool) and not is_late:
            if self.is_fitting and saved != self.is_channels_last:
                rank_zero_info(f"channels_last: auto keeps {str(saved).lower()}, which the checkpoint has")
            self._lay_out(saved)


def _divides_weights(trainer: L.Trainer) -> bool:
    return trainer.strategy.restore_checkpoint_after_setup


def _pays(network: nn.Module, trainer: L.Trainer) -> bool:
    """Says, on all processes alike, whether a network is faster with the channels last.

    Raises:
        UserError: For data that do not say the shape of their images.
    """
    data: object = trainer.datamodule  # type: ignore[attr-defined]
    if all(parameter.ndim != 4 for parameter in network.parameters()):  # nothing to lay out, as in texts
        return False
    if (shape := getattr(data, "image_shape", None)) is None:
        raise UserError(
            f"model.channels_last is auto, and {type(data).__name__} has no image_shape: give it one, as (3, 224, 224),"
            " or set true or false"
        )
    channels, height, width = shape
    batch = max(2, min(_MOST_IMAGES, _PIXELS // (height * width))), channels, height, width
    ratio = trainer.strategy.broadcast(_ratio(network, batch, trainer) if trainer.is_global_zero else 0.0)
    pays = ratio <= 1 - _MARGIN
    rank_zero_info(
        f"channels_last: auto chose {str(pays).lower()}: with channels last a step of the network takes"
        f" {ratio:.2f} times as long ({batch[0]} images of {channels} x {height} x {width})"
    )
    return pays


def _ratio(network: nn.Module, batch: tuple[int, ...], trainer: L.Trainer) -> float:
    device = trainer.strategy.root_device
    key = {
        "network": f"{type(network).__module__}.{type(network).__qualname__}",
        "parameters": [[*parameter.shape] for parameter in network.parameters()],
        "images": batch,
        "precision": [str(trainer.precision), torch.get_float32_matmul_precision()],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else [device.type, platform.node()],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    seconds = load_or_measure("layouts", key, LAYOUTS, lambda: measured_seconds(network, batch, trainer))
    return seconds["channels_last"] / seconds["contiguous"]


def measured_seconds(network: nn.Module, batch: tuple[int, ...], trainer: L.Trainer) -> dict[str, float]:
    """Measures a copy of a network that trains all its weights, on random images: forward and backward.

    Both layouts take turns, so that a change of the machine's speed meets both.

    Args:
        network: The network; neither it nor the state of random generators changes.
        batch: Number, channels, height and width of the images.
        trainer: Says device and precision.

    Returns:
        The seconds of the quickest pass by layout: CPU time, which other programs hardly change, or those until a GPU
        is done.
    """
    precision, device = trainer.precision_plugin, trainer.strategy.root_device
    with isolate_rng(include_cuda=device.type == "cuda"):
        copy = precision.convert_module(deepcopy(network).to(device)).train().requires_grad_()
        images = precision.convert_input(torch.randn(batch, device=device))
        rounds: list[dict[str, float]] = []
        while len(rounds) <= _FEWEST_ROUNDS or sum(sum(one.values()) for one in rounds) < _LEAST_SECONDS:
            rounds.append({})
            for name, layout in LAYOUTS.items():
                copy.to(memory_format=layout).zero_grad()
                start = _now(device)
                with precision.forward_context():
                    outputs = copy(images)
                outputs.float().sum().backward()
                rounds[-1][name] = _now(device) - start
    return {name: min(one[name] for one in rounds[1:]) for name in LAYOUTS}


def _now(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.get_device_module(device).synchronize()
    return time.perf_counter()
