"""Closes what reads training examples beside the private training itself."""

import lightning as L
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    DeviceStatsMonitor,
    GradientAccumulationScheduler,
    LambdaCallback,
    LearningRateFinder,
    StochasticWeightAveraging,
    ThroughputMonitor,
)
from lightning.pytorch.utilities import rank_zero_info

from lightning_transfer.dashboards.embeddings import Embeddings
from lightning_transfer.dashboards.examples import Attributions, TrainingExamples
from lightning_transfer.dashboards.run_card import ModelGraph
from lightning_transfer.dashboards.validation_predictions import ValidationPredictions
from lightning_transfer.errors import UserError
from lightning_transfer.transfer.adaptive import AdaptiveUnfreezing
from lightning_transfer.transfer.feature_penalty import FeaturePenalty

# Dashboards that show examples of the training or of the hold-out, or are drawn from one.
SHOWING = (TrainingExamples, ModelGraph, ValidationPredictions, Attributions, Embeddings)

# Callbacks that take more from training batches than the noisy gradient, or less than was paid for.
REFUSED = {
    FeaturePenalty: "adds a penalty on the features of a batch",
    AdaptiveUnfreezing: "thaws by gradients without noise",
    GradientAccumulationScheduler: "adds up gradients of several batches",
    BatchSizeFinder: "trains steps that no epsilon counts",
    LearningRateFinder: "trains steps that no epsilon counts",
    ThroughputMonitor: "logs how many examples were drawn",
    DeviceStatsMonitor: "logs the memory of a step, which tells how many examples were drawn",
    StochasticWeightAveraging: "reads the examples once more for norm layers, where ExponentialMovingAverage does not",
}


def close_readers(trainer: L.Trainer) -> None:
    """Takes dashboards that show examples away, and says so in a line.

    Raises:
        UserError: For a callback that takes more from training batches than the noisy gradient.
    """
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        for kind, reason in REFUSED.items():
            if isinstance(callback, kind):
                raise UserError(
                    f"{type(callback).__name__} in trainer.callbacks {reason}: expected none with PrivateClassifier,"
                    " which cannot count that"
                )
    shown = [type(callback).__name__ for callback in callbacks if isinstance(callback, SHOWING)]
    trainer.callbacks = [  # type: ignore[attr-defined]
        callback for callback in callbacks if not isinstance(callback, SHOWING)
    ]
    off = ["train/loss and train/accuracy", *shown]
    rank_zero_info(f"private: switched off, as they tell of single examples: {', '.join(off)}")


def unknown_callbacks(trainer: L.Trainer) -> list[str]:
    """Names the callbacks with code that neither this package nor Lightning has: what it reads is not in ε."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    known = ("lightning", "pytorch_lightning", "lightning_transfer")
    kinds = [type(callback) for callback in callbacks]
    unknown = [kind for kind in kinds if kind.__module__.split(".")[0] not in known or kind is LambdaCallback]
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in unknown]
