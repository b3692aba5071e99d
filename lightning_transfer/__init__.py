"""Transfer learning experiments on PyTorch Lightning: pretrain once, unfreeze progressively, compare honestly.

Names are imported when they are first used, so that ``lightning-transfer --help`` stays quick.
"""

import importlib
from typing import TYPE_CHECKING

_EXPORTS = {
    "AdaptiveUnfreezing": "lightning_transfer.transfer.adaptive",
    "AdversarialClassifier": "lightning_transfer.modules.adversarial",
    "Augmentation": "lightning_transfer.data.augment",
    "BarlowTwinsLoss": "lightning_transfer.modules.view_losses",
    "CIFAR10": "lightning_transfer.data.image_sets",
    "CIFAR100": "lightning_transfer.data.image_sets",
    "Classifier": "lightning_transfer.modules.classifier",
    "DemoImages": "lightning_transfer.data.image_sets",
    "DemoTextStreams": "lightning_transfer.data.language_modelling",
    "DemoTexts": "lightning_transfer.data.texts",
    "EarlyStopping": "lightning_transfer.transfer.early_stopping",
    "ExponentialMovingAverage": "lightning_transfer.transfer.averaging",
    "FastCNN": "lightning_transfer.networks.fast_cnn",
    "FullyShardedStrategy": "lightning_transfer.cluster.sharding",
    "Halving": "lightning_transfer.study.config",
    "IMDB": "lightning_transfer.data.texts",
    "ImageBatch": "lightning_transfer.data.batches",
    "ImageDataModule": "lightning_transfer.data.images",
    "LSTMClassifier": "lightning_transfer.networks.lstm",
    "LSTMLanguageModel": "lightning_transfer.networks.lstm_language_model",
    "LanguageModel": "lightning_transfer.modules.language_model",
    "LanguageModelDataModule": "lightning_transfer.data.language_modelling",
    "LazyAdam": "lightning_transfer.modules.lazy_adam",
    "LearningWithoutForgetting": "lightning_transfer.transfer.distillation",
    "LowRankAdaptation": "lightning_transfer.transfer.low_rank",
    "Mixing": "lightning_transfer.data.mixing",
    "MultiTaskDataModule": "lightning_transfer.data.multitask_data",
    "MultiTaskModule": "lightning_transfer.modules.multitask",
    "Muon": "lightning_transfer.modules.muon",
    "Phase": "lightning_transfer.transfer.schedule",
    "Plateau": "lightning_transfer.transfer.schedule",
    "Predicted": "lightning_transfer.run.predictor",
    "Predictor": "lightning_transfer.run.predictor",
    "Pretraining": "lightning_transfer.study.config",
    "PrivateClassifier": "lightning_transfer.privacy.private_classifier",
    "ProgressiveUnfreezing": "lightning_transfer.transfer.unfreezing",
    "ReaderOptions": "lightning_transfer.data.reading.options",
    "SeedCNN": "lightning_transfer.networks.cnn",
    "SelfSupervisedModule": "lightning_transfer.modules.self_supervised",
    "SimCLRLoss": "lightning_transfer.modules.view_losses",
    "SimSiamLoss": "lightning_transfer.modules.view_losses",
    "SpectralShrinkage": "lightning_transfer.transfer.spectral_shrinkage",
    "StartingPointPenalty": "lightning_transfer.transfer.starting_point",
    "Study": "lightning_transfer.study.config",
    "TextBatch": "lightning_transfer.data.batches",
    "TextDataModule": "lightning_transfer.data.texts",
    "TimmNetwork": "lightning_transfer.networks.timm_network",
    "TorchvisionNetwork": "lightning_transfer.networks.torchvision",
    "TransformersLanguageModel": "lightning_transfer.networks.transformers_language_model",
    "TransformersNetwork": "lightning_transfer.networks.transformers_network",
    "Tuning": "lightning_transfer.study.config",
    "TwoViewBatch": "lightning_transfer.data.batches",
    "Until": "lightning_transfer.transfer.schedule",
    "UserError": "lightning_transfer.errors",
    "Views": "lightning_transfer.data.views",
    "WeightInterpolation": "lightning_transfer.transfer.interpolation",
    "evaluate_ensemble": "lightning_transfer.cli.ensemble",
    "explain_run": "lightning_transfer.cli.explaining",
    "export_run": "lightning_transfer.cli.exporting",
    "load": "lightning_transfer.cli.loading",
    "load_starting_weights": "lightning_transfer.transfer.weights",
    "make_soup": "lightning_transfer.cli.soup",
    "parameter_groups": "lightning_transfer.transfer.param_groups",
    "run_study": "lightning_transfer.cli.study_runs",
    "run_sweep": "lightning_transfer.study.sweep",
    "run_transfer": "lightning_transfer.cli.transfer_runs",
    "serve_run": "lightning_transfer.cli.serving",
    "write_report": "lightning_transfer.cli.report_runs",
}

__all__ = list(_EXPORTS)
__version__ = "0.1.0"

if TYPE_CHECKING:  # the same names, for type checkers and editors; a test compares both lists
    from lightning_transfer.cli.ensemble import evaluate_ensemble as evaluate_ensemble
    from lightning_transfer.cli.explaining import explain_run as explain_run
    from lightning_transfer.cli.exporting import export_run as export_run
    from lightning_transfer.cli.loading import load as load
    from lightning_transfer.cli.report_runs import write_report as write_report
    from lightning_transfer.cli.serving import serve_run as serve_run
    from lightning_transfer.cli.soup import make_soup as make_soup
    from lightning_transfer.cli.study_runs import run_study as run_study
    from lightning_transfer.cli.transfer_runs import run_transfer as run_transfer
    from lightning_transfer.cluster.sharding import FullyShardedStrategy as FullyShardedStrategy
    from lightning_transfer.data.augment import Augmentation as Augmentation
    from lightning_transfer.data.batches import (
        ImageBatch as ImageBatch,
        TextBatch as TextBatch,
        TwoViewBatch as TwoViewBatch,
    )
    from lightning_transfer.data.image_sets import CIFAR10 as CIFAR10, CIFAR100 as CIFAR100, DemoImages as DemoImages
    from lightning_transfer.data.images import ImageDataModule as ImageDataModule
    from lightning_transfer.data.language_modelling import (
        DemoTextStreams as DemoTextStreams,
        LanguageModelDataModule as LanguageModelDataModule,
    )
    from lightning_transfer.data.mixing import Mixing as Mixing
    from lightning_transfer.data.multitask_data import MultiTaskDataModule as MultiTaskDataModule
    from lightning_transfer.data.reading.options import ReaderOptions as ReaderOptions
    from lightning_transfer.data.texts import IMDB as IMDB, DemoTexts as DemoTexts, TextDataModule as TextDataModule
    from lightning_transfer.data.views import Views as Views
    from lightning_transfer.errors import UserError as UserError
    from lightning_transfer.modules.adversarial import AdversarialClassifier as AdversarialClassifier
    from lightning_transfer.modules.classifier import Classifier as Classifier
    from lightning_transfer.modules.language_model import LanguageModel as LanguageModel
    from lightning_transfer.modules.lazy_adam import LazyAdam as LazyAdam
    from lightning_transfer.modules.multitask import MultiTaskModule as MultiTaskModule
    from lightning_transfer.modules.muon import Muon as Muon
    from lightning_transfer.modules.self_supervised import SelfSupervisedModule as SelfSupervisedModule
    from lightning_transfer.modules.view_losses import (
        BarlowTwinsLoss as BarlowTwinsLoss,
        SimCLRLoss as SimCLRLoss,
        SimSiamLoss as SimSiamLoss,
    )
    from lightning_transfer.networks.cnn import SeedCNN as SeedCNN
    from lightning_transfer.networks.fast_cnn import FastCNN as FastCNN
    from lightning_transfer.networks.lstm import LSTMClassifier as LSTMClassifier
    from lightning_transfer.networks.lstm_language_model import LSTMLanguageModel as LSTMLanguageModel
    from lightning_transfer.networks.timm_network import TimmNetwork as TimmNetwork
    from lightning_transfer.networks.torchvision import TorchvisionNetwork as TorchvisionNetwork
    from lightning_transfer.networks.transformers_language_model import (
        TransformersLanguageModel as TransformersLanguageModel,
    )
    from lightning_transfer.networks.transformers_network import TransformersNetwork as TransformersNetwork
    from lightning_transfer.privacy.private_classifier import PrivateClassifier as PrivateClassifier
    from lightning_transfer.run.predictor import Predicted as Predicted, Predictor as Predictor
    from lightning_transfer.study.config import (
        Halving as Halving,
        Pretraining as Pretraining,
        Study as Study,
        Tuning as Tuning,
    )
    from lightning_transfer.study.sweep import run_sweep as run_sweep
    from lightning_transfer.transfer.adaptive import AdaptiveUnfreezing as AdaptiveUnfreezing
    from lightning_transfer.transfer.averaging import ExponentialMovingAverage as ExponentialMovingAverage
    from lightning_transfer.transfer.distillation import LearningWithoutForgetting as LearningWithoutForgetting
    from lightning_transfer.transfer.early_stopping import EarlyStopping as EarlyStopping
    from lightning_transfer.transfer.interpolation import WeightInterpolation as WeightInterpolation
    from lightning_transfer.transfer.low_rank import LowRankAdaptation as LowRankAdaptation
    from lightning_transfer.transfer.param_groups import parameter_groups as parameter_groups
    from lightning_transfer.transfer.schedule import Phase as Phase, Plateau as Plateau, Until as Until
    from lightning_transfer.transfer.spectral_shrinkage import SpectralShrinkage as SpectralShrinkage
    from lightning_transfer.transfer.starting_point import StartingPointPenalty as StartingPointPenalty
    from lightning_transfer.transfer.unfreezing import ProgressiveUnfreezing as ProgressiveUnfreezing
    from lightning_transfer.transfer.weights import load_starting_weights as load_starting_weights
else:

    def __getattr__(name: str) -> object:
        if name not in _EXPORTS:
            raise AttributeError(f"module 'lightning_transfer' has no attribute {name!r}")
        return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
