"""Computes what a prediction rests on: by Grad-CAM for images, by gradient x input for texts, each with hooks."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_transfer.networks.layer_groups import LayerGroup


@contextmanager
def evaluating(trainer: L.Trainer, pl_module: L.LightningModule, with_gradients: bool = False) -> Iterator[None]:
    """Runs a module in eval mode in the middle of its training, without changing any gradient, statistic or mode.

    Args:
        trainer: Trainer whose precision is used.
        pl_module: The module.
        with_gradients: Whether activations can be differentiated, even within Lightning's validation.
    """
    modes = {module: module.training for module in pl_module.modules()}
    pl_module.eval()
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.set_grad_enabled(with_gradients))
            stack.enter_context(trainer.precision_plugin.forward_context())
            stack.enter_context(torch.compiler.set_stance("force_eager"))  # compiled code does not call hooks
            if with_gradients:  # cuDNN has no backward through an LSTM in eval mode
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def grad_cam(pl_module: L.LightningModule, groups: dict[str, LayerGroup], images: Tensor) -> tuple[Tensor, Tensor]:
    """Computes where the evidence for each predicted class lies.

    It uses the last feature map whose height and width are above 1. The first layer group is not considered.

    Args:
        pl_module: The module, in eval mode and with gradients enabled; see :func:`evaluating`.
        groups: Layer groups of the module.
        images: float [batch, channels, height, width].

    Returns:
        The maps, float [batch, height, width] from 0 to 1, and the logits, float [batch, classes]. A map is all zero
        where nothing speaks for the class. For a network without such feature maps, the maps are empty.

    Source:
        Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, 2017.
    """
    candidates = [module for group in list(groups.values())[1:] for module in group.modules]
    leaf, logits = _with_last_feature_map(pl_module, candidates, images)
    if leaf is None:
        return images.new_empty(0), logits.detach()
    (gradient,) = torch.autograd.grad(_predicted(logits), leaf)
    weights = gradient.float().mean((2, 3), keepdim=True)
    maps = (weights * leaf.float()).sum(1, keepdim=True).relu()
    maps = F.interpolate(maps, images.shape[2:], mode="bilinear", align_corners=False)[:, 0].detach()
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12), logits.detach()


def gradient_times_input(
    pl_module: L.LightningModule, groups: dict[str, LayerGroup], token_ids: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Computes how much each token speaks for the predicted class, to first order.

    Args:
        pl_module: The module, in eval mode and with gradients enabled; see :func:`evaluating`.
        groups: Layer groups of the module, one of which embeds the tokens.
        token_ids: int64 [batch, time].
        lengths: int64 [batch].

    Returns:
        The scores, float [batch, time], and the logits, float [batch, classes]. A score is negative where a token
        speaks against the class. For a network without an embedding, the scores are empty.

    Source:
        Denil et al., Extraction of Salient Sentences from Labelled Documents, 2014.
    """
    embedding = next((m for group in groups.values() for m in group.modules if isinstance(m, nn.Embedding)), None)
    if embedding is None:
        return token_ids.new_empty(0), pl_module(token_ids, lengths)
    leaf, embedded, logits = _with_leaf(pl_module, embedding, (token_ids, lengths))
    (gradient,) = torch.autograd.grad(_predicted(logits), leaf)
    scores = (gradient.float() * leaf.float()).sum(-1).detach()
    if not torch.equal(embedded, token_ids):  # recurrent networks often put time first, and may read backward
        network = getattr(pl_module, "network", None)
        reorder = getattr(network, "in_reading_order", lambda steps, *_: steps)
        scores = reorder(scores, token_ids, lengths).t()
    return scores, logits.detach()


def _predicted(logits: Tensor) -> Tensor:
    if logits.shape[1] == 1:  # one logit for two classes
        return (logits * logits.sign()).sum()
    return logits.amax(1).sum()


def _with_last_feature_map(
    pl_module: L.LightningModule, candidates: Iterable[nn.Module], images: Tensor
) -> tuple[Tensor | None, Tensor]:
    """Runs the module with each feature map detached from what is below, as any may turn out to be the last one.

    Returns:
        The last feature map, None where there is none, and the logits.
    """
    leaves: dict[nn.Module, Tensor] = {}  # in the order of the last calls; of each module its first one

    def cut(module: nn.Module, _: Any, output: Any) -> Tensor | None:
        if not isinstance(output, Tensor) or output.ndim != 4 or min(output.shape[2:]) <= 1:
            return None
        leaf = output.detach().requires_grad_()
        leaves[module] = leaves.pop(module, leaf)  # of several views of a batch, the first is the batch itself
        return leaf.clone()  # the layers that follow may change it in place

    hooks = [module.register_forward_hook(cut) for module in candidates]
    try:
        logits = pl_module(images)
    finally:
        for hook in hooks:
            hook.remove()
    return (next(reversed(leaves.values())) if leaves else None), logits


def _with_leaf(
    pl_module: L.LightningModule, module: nn.Module, inputs: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs the module with a submodule's output detached from what is below, so that it can be differentiated by.

    Returns:
        The detached output, the submodule's input, and the logits.
    """
    cuts: list[tuple[Tensor, Tensor]] = []

    def cut(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        cuts.append((output.detach().requires_grad_(), arguments[0]))
        return cuts[-1][0].clone()  # the layers that follow may change it in place

    hook = module.register_forward_hook(cut)
    try:
        logits = pl_module(*inputs)
    finally:
        hook.remove()
    return *cuts[0], logits  # if the network takes several views of a batch, the first is the batch itself
