"""Refuses what a private training cannot have."""

from typing import Any

import lightning as L
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from lightning_transfer.errors import UserError
from lightning_transfer.modules.classifier import Classifier

_PRECISIONS = ("32-true", "64-true", "bf16-mixed")


def check_can_be_private(trainer: L.Trainer, module: Classifier) -> None:
    """Checks the data, the trainer and the settings of the module.

    Raises:
        UserError: For the first one with which a training cannot be private.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if not getattr(data, "private", False):
        raise UserError(
            f"data.private is not set in {type(data).__name__}: expected true with PrivateClassifier, in data of"
            " ImageDataModule or TextDataModule; compose configs/options/private.yaml"
        )
    sparse = next((path for path, layer in module.named_modules() if getattr(layer, "sparse", False)), None)
    joined = "the gradients of single examples"
    refused = {
        "trainer.strategy": (
            not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy),
            f"{type(trainer.strategy).__name__}: expected one device, or ddp",
        ),
        "trainer.precision": (
            trainer.precision not in _PRECISIONS,
            f"{trainer.precision}: expected {' or '.join(_PRECISIONS)}",
        ),
        "trainer.accumulate_grad_batches": (
            trainer.accumulate_grad_batches != 1,
            f"{trainer.accumulate_grad_batches}: expected 1; data.batch_size is the expected size of a batch, and"
            " model.examples_at_once bounds the memory",
        ),
        "trainer.overfit_batches": (
            bool(trainer.overfit_batches),  # type: ignore[attr-defined]
            "set: expected 0, as each batch is drawn anew",
        ),
        "model.class_weights": (module.class_weights is not None, "set: expected null, as they count examples"),
        "model.compile": (module.network._compiled_call_impl is not None, f"true: expected false with {joined}"),
        f"sparse of {sparse}": (sparse is not None, f"true: expected false with {joined}"),
    }
    for name, (is_refused, words) in refused.items():
        if is_refused:
            raise UserError(f"{name} is {words} (PrivateClassifier)")
