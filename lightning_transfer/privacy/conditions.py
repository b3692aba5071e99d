"""Refuses what a private training cannot have."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch.nn.modules.batchnorm import _NormBase

from lightning_transfer.errors import UserError
from lightning_transfer.modules.classifier import Classifier
from lightning_transfer.privacy.per_example import evaluating

_PRECISIONS = ("32-true", "64-true", "bf16-mixed")
_ALIKE = 1e-3  # logits of a document with padding and without


def check_can_be_private(trainer: L.Trainer, module: Classifier) -> None:
    """Checks the data, the trainer and the settings of the module.

    Raises:
        UserError: For the first one with which a training cannot be private.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if data is None:
        raise UserError("PrivateClassifier needs a data module of ImageDataModule or TextDataModule with private=True")
    if not getattr(data, "private", False):
        raise UserError(
            f"data.private is not set in {type(data).__name__}: expected true with PrivateClassifier, in data of"
            " ImageDataModule or TextDataModule; compose configs/options/private.yaml"
        )
    _check_layers(module)
    sparse = next((path for path, layer in module.named_modules() if getattr(layer, "sparse", False)), None)
    joined = "the gradients of single examples"
    refused = {
        "trainer.strategy": (
            type(trainer.strategy) not in (SingleDeviceStrategy, DDPStrategy),  # a subclass may step by itself
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


def _check_layers(module: Classifier) -> None:
    """Refuses layers in which one example of a batch can change what another one gives."""
    for path, layer in module.named_modules():
        if isinstance(layer, _NormBase) and layer.running_mean is None and type(layer).__name__.startswith("Batch"):
            raise UserError(f"{path} takes its statistics of a batch: expected group norm, or track_running_stats")
        if getattr(layer, "gradient_tokens", None) is not None:
            raise UserError(
                f"gradient_tokens of {path} is {layer.gradient_tokens}: expected null (PrivateClassifier), as the"
                " longest document of a batch decides which tokens of the others have a gradient"
            )


def check_padding(module: Classifier, vocabulary_size: int) -> None:
    """Refuses a network of texts in which padding, and so the longest document of a batch, changes the others.

    Args:
        module: Has the network, which takes token ids and lengths.
        vocabulary_size: The number of token ids.

    Raises:
        UserError: If the logits of a document depend on its padding.
    """
    network = module.network
    text = torch.arange(4, device=module.device).remainder(vocabulary_size).unsqueeze(0)
    padded = torch.cat([text, text.new_zeros(1, 3)], 1)
    length = text.new_full((1,), 4)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), evaluating(network.modules()):
        alone, beside = network(text, length), network(padded, length)
    if not torch.allclose(alone, beside, atol=_ALIKE, rtol=_ALIKE):
        raise UserError(
            f"{type(network).__name__} gives other logits for a document with padding: expected a network that leaves"
            " padding out (PrivateClassifier), as the longest document of a batch decides how much there is"
        )
