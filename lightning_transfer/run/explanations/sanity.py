"""Checks that attributions follow from the network: by random weights, and by what is taken away."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from lightning_transfer.run.explanations.methods import Method, completeness
from lightning_transfer.run.explanations.parts import Parts
from lightning_transfer.run.explanations.scores import Scores
from lightning_transfer.transfer.shown_groups import own_groups

RANDOM = "random order"
_BOUND = 0.5  # of the rank correlation with the attributions of a random network
_STAGES = 6  # layer groups are randomised in as many steps at most
_DRAWS = 8  # networks that are random throughout: one may see by chance what the trained one sees
_SHARES = np.linspace(0, 1, 11)  # of the parts, that are taken away or put in
_ORDERS = 3  # random ones

Curves = dict[str, np.ndarray]  # by the rule that orders the parts: deletion and insertion, float [2, points]


class Sample(NamedTuple):
    """The examples that the checks are made on.

    Attributes:
        scores: The network.
        parts: The examples.
        targets: int64 [batch], the class that is explained of each.
        rivals: The curves of rules that look at no network; see :func:`sample_of`.
    """

    scores: Scores
    parts: Parts
    targets: Tensor
    rivals: Curves


def sample_of(scores: Scores, parts: Parts, targets: Tensor) -> Sample:
    """Prepares examples for the checks of any number of methods, by the curves of their rivals.

    Args:
        scores: The network.
        parts: The examples.
        targets: int64 [batch], the class that is explained of each.
    """
    generator = torch.Generator().manual_seed(0)
    orders = {name: [of_rival] for name, of_rival in parts.rivals.items()}
    orders[RANDOM] = [[torch.rand(count, generator=generator) for count in parts.counts] for _ in range(_ORDERS)]
    rivals = {
        name: np.mean([_curves(values, scores, parts, targets) for values in of_rival], 0)
        for name, of_rival in orders.items()
    }
    return Sample(scores, parts, targets, rivals)


def check(method: Method, sample: Sample, maps: Tensor | None = None) -> dict[str, Any]:
    """Makes all checks of a method.

    Args:
        method: The method.
        sample: The examples.
        maps: Its attributions of them, where they are known.

    Returns:
        The figures of each check, whether it and all of them have passed, and the number of examples, in plain types.
    """
    scores, parts, targets, _ = sample
    maps = method.attribute(scores, parts.inputs, targets) if maps is None else maps
    found = {
        "randomisation": check_randomisation(method, sample),
        "curves": check_curves(parts.values(maps), sample),
    }
    if method.reference is not None:
        found["completeness"] = completeness(method, maps, scores, parts.inputs, targets)
    return {"examples": len(targets), "passed": all(each["passed"] for each in found.values()), **found}


def check_randomisation(method: Method, sample: Sample) -> dict[str, Any]:
    """Randomises the weights from the head to the input, and compares the attributions at each step.

    The numbers of each weight are put in random order, so layers keep their scale. Once all layers are random, the rank
    correlation of the attributions with those of the network has to be below a half, as a mean over the examples and
    over several such networks.

    Source:
        Adebayo et al., Sanity Checks for Saliency Maps, 2018 (cascading randomisation).
    """
    scores, parts, targets, _ = sample
    attribute = method.rough or method.attribute
    maps = attribute(scores, parts.inputs, targets)
    groups = [(name, [*group.parameters]) for name, group in own_groups(scores.classifier).items() if group.parameters]
    groups.reverse()
    every = [name for _, names in groups for name in names]
    ends = np.linspace(1, len(groups), min(_STAGES, len(groups))).round().astype(int).tolist()
    generator = torch.Generator().manual_seed(0)

    def compare(network: Scores, names: Sequence[str]) -> dict[str, float]:
        """Randomises some weights of a network, which is changed in place."""
        for name in names:
            _shuffle(network.classifier.get_parameter(name), generator)
        return _similarity(parts, maps, attribute(network, parts.inputs, targets).nan_to_num())

    network = copy.deepcopy(scores)
    stages: list[dict[str, Any]] = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        found = compare(network, [name for _, names in groups[start:end] for name in names])
        stages.append({"randomised": [name for name, _ in groups[:end]], **found})
    drawn = [stages[-1], *(compare(copy.deepcopy(scores), every) for _ in range(_DRAWS - 1))]
    stages[-1] |= {name: float(np.mean([each[name] for each in drawn])) for name in drawn[-1]}
    passed = bool(stages[-1]["rank_correlation"] < _BOUND)
    return {"stages": stages, "random_networks": _DRAWS, "bound": _BOUND, "passed": passed}


def check_curves(values: Sequence[Tensor], sample: Sample) -> dict[str, Any]:
    """Takes away the parts of examples, and puts them in, those with the highest values first.

    The probability of the class, or the number, should fall early and rise early. The area below the insertion curve
    minus that below the deletion curve has to be larger than for a random order and for every other rival.

    Source:
        Petsiuk et al., RISE: Randomized Input Sampling for Explanation of Black-box Models, 2018. Unlike there, tiles
        are taken away and not pixels, whose random order makes noise, and both curves know the same blank.
    """
    curves = {"method": _curves(values, sample.scores, sample.parts, sample.targets), **sample.rivals}
    gains = {name: float(np.trapezoid(insertion - deletion, _SHARES)) for name, (deletion, insertion) in curves.items()}
    return {
        "shares": _SHARES.tolist(),
        "deletion": {name: deletion.tolist() for name, (deletion, _) in curves.items()},
        "insertion": {name: insertion.tolist() for name, (_, insertion) in curves.items()},
        "insertion_minus_deletion": gains,
        "passed": all(gains["method"] > gain for name, gain in gains.items() if name != "method"),
    }


def _curves(values: Sequence[Tensor], scores: Scores, parts: Parts, targets: Tensor) -> np.ndarray:
    """Computes the deletion and the insertion curve as means over the examples, float [2, points]."""
    ranks = [of_one.cpu().argsort(descending=True, stable=True).argsort() for of_one in values]
    curves = np.empty((2, len(_SHARES)))
    for point, share in enumerate(_SHARES):
        first = [rank < round(share * len(rank)) for rank in ranks]
        for curve, kept in enumerate(([~taken for taken in first], first)):
            curves[curve, point] = scores.outcomes(parts.keep(kept), targets).mean().item()
    return curves


@torch.no_grad()
def _shuffle(parameter: Tensor, generator: torch.Generator) -> None:
    order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
    parameter.copy_(parameter.flatten()[order].view_as(parameter))


def _similarity(parts: Parts, maps: Tensor, others: Tensor) -> dict[str, float]:
    """Compares attributions: pixel by pixel those of images, also by SSIM, and word by word those of texts."""
    if maps.ndim == 2:
        pairs = [*zip(parts.values(maps), parts.values(others), strict=True)]
        return {"rank_correlation": _mean_rank_correlation(pairs)}
    pairs = [*zip(maps.flatten(1), others.flatten(1), strict=True)]
    one, other = (
        (each / each.abs().amax((1, 2), keepdim=True).clamp_min(1e-12)).unsqueeze(1) for each in (maps, others)
    )
    ssim: Any = structural_similarity_index_measure(one, other, data_range=(-1.0, 1.0))
    return {"rank_correlation": _mean_rank_correlation(pairs), "ssim": float(ssim)}


def _mean_rank_correlation(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Averages Spearman's correlation over examples of several parts. Where all values of one are equal, it is 0."""
    found = []
    for pair in pairs:
        if len(pair[0]) < 2:
            continue
        centred = [ranks - ranks.mean() for ranks in (rankdata(values.cpu().numpy()) for values in pair)]
        scale = np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
        found.append(float((centred[0] * centred[1]).sum() / scale) if scale else 0.0)
    return float(np.mean(found)) if found else 1.0
