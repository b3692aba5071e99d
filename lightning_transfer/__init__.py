"""Transfer learning experiments on PyTorch Lightning: pretrain once, unfreeze progressively, compare honestly.

Names are imported when they are first used, so that ``lightning-transfer --help`` stays quick.
"""

import importlib
from typing import Any

_EXPORTS = {
    "AdversarialClassifier": "lightning_transfer.modules.adversarial",
    "CIFAR10": "lightning_transfer.data.images",
    "CIFAR100": "lightning_transfer.data.images",
    "Classifier": "lightning_transfer.modules.classifier",
    "DemoImages": "lightning_transfer.data.images",
    "DemoTextStreams": "lightning_transfer.data.language_modelling",
    "DemoTexts": "lightning_transfer.data.texts",
    "EarlyStopping": "lightning_transfer.transfer.early_stopping",
    "ExponentialMovingAverage": "lightning_transfer.transfer.averaging",
    "FastCNN": "lightning_transfer.networks.fast_cnn",
    "IMDB": "lightning_transfer.data.texts",
    "ImageDataModule": "lightning_transfer.data.images",
    "LSTMClassifier": "lightning_transfer.networks.lstm",
    "LSTMLanguageModel": "lightning_transfer.networks.lstm_language_model",
    "LanguageModel": "lightning_transfer.modules.language_model",
    "LanguageModelDataModule": "lightning_transfer.data.language_modelling",
    "Muon": "lightning_transfer.modules.muon",
    "ProgressiveUnfreezing": "lightning_transfer.transfer.unfreezing",
    "SeedCNN": "lightning_transfer.networks.cnn",
    "TextDataModule": "lightning_transfer.data.texts",
    "TorchvisionNetwork": "lightning_transfer.networks.torchvision",
    "load_starting_weights": "lightning_transfer.transfer.weights",
    "parameter_groups": "lightning_transfer.transfer.param_groups",
}

__all__ = list(_EXPORTS)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'lightning_transfer' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
