"""A loss and scores of the user's, tried before a training on what they will be given."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lightning_transfer.errors import UserError
from lightning_transfer.modules.losses import Loss
from lightning_transfer.modules.targets import Targets


def build_loss(
    given: Loss | nn.Module | None, targets: Targets, outputs: int, label_smoothing: float, option: str = "loss"
) -> nn.Module:
    """Builds the loss of a name, or takes the user's.

    Args:
        given: A name, a module that takes logits and labels, or None for the loss that is usual.
        targets: What is predicted.
        outputs: Number of classes, or of the numbers to predict.
        label_smoothing: Share of the target that is spread evenly over all classes, from 0 to below 1.
        option: The option of the model that gives the loss, for the error.

    Raises:
        UserError: For a name of another problem type, a module that does not give the mean of a batch, and label
            smoothing out of range or where there is nothing to smooth.
    """
    if not 0 <= label_smoothing < 1:
        raise UserError(f"model.label_smoothing is {label_smoothing}: expected at least 0 and below 1")
    if label_smoothing and (isinstance(given, nn.Module) or targets.noun != "classes"):
        raise UserError(
            f"model.label_smoothing is {label_smoothing}: expected 0 with this loss, which smooths no labels"
        )
    if isinstance(given, nn.Module):
        logits, labels = targets.example(outputs)
        value = _try(option, given, logits.requires_grad_(), labels, wants=_of_labels(logits, labels))
        _check_value(option, given, value)
        return given
    name: Loss = given if given is not None else next(iter(targets.losses))
    if name not in targets.losses:
        raise UserError(f"model.{option} is {name}: expected {', '.join(targets.losses)} or a module of your own")
    return targets.losses[name](outputs, label_smoothing)


def check_metrics(
    given: Mapping[str, Metric] | MetricCollection | None, targets: Targets, outputs: int
) -> dict[str, Metric]:
    """Checks the user's metrics.

    Args:
        given: By name, or a collection.
        targets: What is predicted.
        outputs: Number of classes, or of the numbers to predict.

    Raises:
        UserError: For a name that is taken, and a metric that does not take the predictions or gives not one number.
    """
    own = cast(dict[str, Metric], dict(given.items() if given is not None else ()))
    for name, metric in own.items():
        if name in ("loss", *targets.scores(outputs)):
            raise UserError(f"model.metrics has {name}, which is measured in any case: choose another name")
        logits, labels = targets.example(outputs)
        given_to = targets.predictions(logits), targets.counted(labels)
        value = _try(f"metrics.{name}", metric, *given_to, wants=_of_labels(*given_to))
        if not isinstance(value, Tensor) or value.numel() != 1:
            found = f"a tensor {[*value.shape]}" if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"model.metrics.{name} gives {found}: expected one number, as with an average over classes")
    return own


def check_loss_of_views(loss: nn.Module, width: int) -> None:
    """Checks a loss of the projections of two views.

    Args:
        loss: The loss.
        width: Number of outputs of the projector.

    Raises:
        UserError: If it does not take them, or gives anything but a number that follows from them.
    """
    first, second = torch.randn(2, 16, width, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = _try("loss", loss, first, second, wants=f"the projections of two views, float [16, {width}] each")
    _check_value("loss", loss, value)


def _check_value(option: str, loss: nn.Module, value: Any) -> None:
    is_number = isinstance(value, Tensor) and not value.ndim
    if not is_number or not value.requires_grad:
        found = f"a tensor {[*value.shape]}" if isinstance(value, Tensor) else type(value).__name__
        found = "a number without a gradient" if is_number else found
        name = type(loss).__name__
        raise UserError(f"model.{option} is {name}, which gives {found}: expected the mean of the batch, as a tensor")


def _try(option: str, part: Any, *given: Tensor, wants: str) -> Any:
    try:
        with torch.random.fork_rng(devices=[]):  # a part may draw
            return deepcopy(part)(*given)  # it may remember
    except Exception as error:
        raise UserError(f"model.{option} is {type(part).__name__}, which does not take {wants}: {error}") from error


def _of_labels(predictions: Tensor, labels: Tensor) -> str:
    kind = str(labels.dtype).removeprefix("torch.")
    return f"what is predicted, float {[*predictions.shape]}, and labels, {kind} {[*labels.shape]}"
