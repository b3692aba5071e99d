"""Attributes predictions to pixels or tokens, by captum."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_transfer.data.pretrained_tokenizer import SpecialTokens
from lightning_transfer.run.explanations.scores import Embedded, Inputs, Scores, differentiable, last_feature_map
from lightning_transfer.transfer.shown_groups import own_groups

STEPS = 32  # of integrated gradients at first
_ROUGH_STEPS = 8
_MOST_STEPS = 512
_COMPLETE = 0.05  # of the difference of the scores that the attributions may miss
_ROWS_AT_ONCE = 64  # examples times steps that are computed together

# Attributes the scores of classes, int64 [batch]: images to float32 [batch, height, width], texts to [batch, time].
Attribute = Callable[[Scores, Inputs, Tensor], Tensor]


class Method(NamedTuple):
    """A way to attribute.

    Attributes:
        name: Its name in files.
        title: Its name for people.
        attribute: The function, which takes the network as an argument: the sanity checks give it others.
        reference: What the attributions add up to the difference from, where they promise that: inputs of the network.
        layer: The layer that it looks at, where it looks at one.
        rough: A cheaper form, for networks that are random anyway.
    """

    name: str
    title: str
    attribute: Attribute
    reference: Callable[[Inputs], Inputs] | None = None
    layer: str | None = None
    rough: Attribute | None = None


def grad_cam(scores: Scores, inputs: Inputs) -> Method | None:
    """Chooses Grad-CAM on the last feature map; None where the network has none behind its first layer group.

    Source:
        Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, 2017.
    """
    groups = [*own_groups(scores.classifier).values()][1:]
    candidates = [module for group in groups for module in group.modules]
    found = last_feature_map(lambda: scores(inputs[0][:1]), candidates)
    path = next((path for path, module in scores.named_modules() if module is found), None)
    if path is None:
        return None

    def attribute(scores: Scores, inputs: Inputs, targets: Tensor) -> Tensor:
        from captum.attr import LayerAttribution, LayerGradCam

        with _quietly():
            method = LayerGradCam(scores, scores.get_submodule(path))
            maps = method.attribute(inputs[0], target=targets, relu_attributions=True)
        enlarged: Tensor = LayerAttribution.interpolate(maps.detach(), inputs[0].shape[2:], "bilinear")
        return enlarged[:, 0]

    return Method("grad_cam", "Grad-CAM", attribute, layer=path.removeprefix("classifier.network."))


def integrated_gradients_of_pixels(steps: int = STEPS) -> Method:
    """Makes integrated gradients from the mean colour of the training images, summed over the channels.

    Args:
        steps: Number of points on the way from there to the image.

    Source:
        Sundararajan et al., Axiomatic Attribution for Deep Networks, 2017.
    """

    def reference(inputs: Inputs) -> Inputs:
        return (torch.zeros_like(inputs[0]),)

    def attribute(scores: Scores, inputs: Inputs, targets: Tensor, steps: int = steps) -> Tensor:
        [start] = reference(inputs)
        return _integrate(scores, inputs[0], start, targets, (), steps).sum(1)

    return _integrated_gradients(attribute, reference)


def integrated_gradients_of_tokens(special: SpecialTokens, steps: int = STEPS) -> Method:
    """Makes integrated gradients of the embedded tokens, from a text of padding, summed over the features.

    Args:
        special: The tokens that mark what is not text, which stay.
        steps: Number of points on the way.
    """

    def reference(inputs: Inputs) -> Inputs:
        token_ids, lengths = inputs
        return token_ids.where(is_marked(token_ids, special), special.padding), lengths

    def attribute(scores: Scores, inputs: Inputs, targets: Tensor, steps: int = steps) -> Tensor:
        embedded = Embedded(scores)
        start, end = (embedded.embed(*given) for given in (reference(inputs), inputs))
        return _integrate(embedded, end, start, targets, inputs, steps).sum(2)

    return _integrated_gradients(attribute, reference)


def is_marked(token_ids: Tensor, special: SpecialTokens) -> Tensor:
    """Says which tokens mark documents and what is between texts, and are no text: bool, as the ids."""
    return torch.isin(token_ids, torch.tensor(special.marks, device=token_ids.device))


def completeness(method: Method, maps: Tensor, scores: Scores, inputs: Inputs, targets: Tensor) -> dict[str, Any]:
    """Compares the sums of attributions with the differences of the scores that they promise to add up to.

    Returns:
        The sums and the differences, a number for each example; what the sums miss, as a share of the differences of
        all; the bound for it; and whether it holds.
    """
    assert method.reference is not None
    with torch.no_grad():
        end, start = (scores(*given).gather(1, targets.unsqueeze(1)) for given in (inputs, method.reference(inputs)))
    sums, differences = maps.flatten(1).sum(1), (end - start).squeeze(1)
    missed = ((sums - differences).abs().sum() / differences.abs().sum().clamp_min(1e-12)).item()
    return {
        "sums": sums.tolist(),
        "differences": differences.tolist(),
        "missed_share": missed,
        "bound": _COMPLETE,
        "passed": missed <= _COMPLETE,
    }


def complete_enough(
    make: Callable[[int], Method], scores: Scores, inputs: Inputs, targets: Tensor
) -> tuple[Method, int, Tensor]:
    """Doubles the steps of a method until its attributions are complete, up to 512.

    Args:
        make: Makes the method for a number of steps.
        scores: The network.
        inputs: Examples.
        targets: int64 [batch], the class of each.

    Returns:
        The method, its steps, and its attributions of the examples.
    """
    steps = STEPS
    while True:
        method = make(steps)
        maps = method.attribute(scores, inputs, targets)
        if completeness(method, maps, scores, inputs, targets)["passed"] or steps >= _MOST_STEPS:
            return method, steps, maps
        steps *= 2


def _integrated_gradients(attribute: Callable[..., Tensor], reference: Callable[[Inputs], Inputs]) -> Method:
    rough = partial(attribute, steps=_ROUGH_STEPS)
    return Method("integrated_gradients", "integrated gradients", attribute, reference, rough=rough)


def _integrate(
    forward: Callable[..., Tensor], end: Tensor, start: Tensor, targets: Tensor, more: Inputs, steps: int
) -> Tensor:
    from captum.attr import IntegratedGradients

    with _quietly():
        found: Tensor = IntegratedGradients(forward).attribute(
            end,
            baselines=start,
            target=targets,
            additional_forward_args=more or None,
            n_steps=steps,
            internal_batch_size=max(_ROWS_AT_ONCE, len(end)),
        )
    return found.detach().float()


@contextmanager
def _quietly() -> Iterator[None]:
    """Keeps captum from saying that it asks for gradients."""
    with warnings.catch_warnings(), differentiable():
        warnings.simplefilter("ignore")
        yield
