"""Decides whether a lower or a higher value of a metric is better, by its name or by what is given."""

import re
from typing import Literal

from lightning_transfer.errors import UserError

Direction = Literal["min", "max"]

# The last word of a name decides, as "loss" in val/accuracy_loss. Words that tell how it was averaged are skipped.
_ENDS = {
    "min": "loss|errors?|err|perplexity|ppl|nll|cross_entropy|bce|brier|ece|mse|rmse|mae|mape|wer|cer|distance|"
    "divergence",
    "max": "accuracy|acc|precision|recall|sensitivity|specificity|f1|f_?beta|dice|iou|jaccard|auc|auroc|auprc|"
    "average_precision|mrr|ndcg|bleu|rouge|psnr|ssim|r2|kappa|mcc|correct",
}
_NO_SHARES = r"psnr|bleu|rouge"  # in decibels, or from 0 to 100 in some libraries
_QUALIFIERS = r"scores?|rate|epoch|step|macro|micro|weighted|mean|avg|average|total|top|at|k|l|\d+|dataloader_idx"
_NAMES = {direction: re.compile(rf"(?:.*_)?(?:{ends})(?:_?(?:{_QUALIFIERS}))*") for direction, ends in _ENDS.items()}


def direction_of(metric: str) -> Direction | None:
    """Tells the direction of a metric from its name.

    Args:
        metric: A name as it is logged: ``val/loss``, ``test_f1_macro``, ``valAccuracy/dataloader_idx_0``.

    Returns:
        ``min`` if lower is better, ``max`` if higher is better, and None if the name does not say.
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|[^A-Za-z0-9]+", "_", metric).lower().strip("_")
    return next((direction for direction in ("min", "max") if _NAMES[direction].fullmatch(words)), None)


def is_share(metric: str) -> bool:
    """Tells from the name of a metric whether it is a share from 0 to 1, such as an accuracy.

    Args:
        metric: A name as it is logged.
    """
    return direction_of(metric) == "max" and not re.search(_NO_SHARES, metric.lower())


def decide_direction(metric: str, mode: str | None, option: str) -> Direction:
    """Decides the direction of a metric: the one that follows from its name, or else the one that is given.

    Args:
        metric: Name of the metric.
        mode: Direction that is given: ``min``, ``max`` or None.
        option: Name of the setting that gives it.

    Raises:
        UserError: If the given direction contradicts the name, or if neither the name nor the setting gives one.
    """
    known = direction_of(metric)
    if mode not in ("min", "max", None):
        raise UserError(f"{option} is {mode!r}: expected min or max")
    if known is not None and mode not in (known, None):
        better = "lower" if known == "min" else "higher"
        raise UserError(f"{option} is {mode}, and a {better} {metric} is better: expected {known}, or leave it out")
    direction: Direction | None = known or ("min" if mode == "min" else "max" if mode == "max" else None)
    if direction is None:
        raise UserError(
            f"{option} is not given, and the name {metric} does not say what is better: expected min where a lower"
            " value is, max where a higher one is"
        )
    return direction
